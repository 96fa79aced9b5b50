// One of the programs of bench/programs: dictionaries, sorting, garbage, null references that are caught. Prints the same each time.
using System.Globalization;
using System.Text;

var words = new Dictionary<string, int>();
uint seed = 1;
for (int i = 0; i < 200_000; i++)
{
    string word = "w" + (Next() % 20_000).ToString(CultureInfo.InvariantCulture);
    words[word] = words.GetValueOrDefault(word) + 1;
}
KeyValuePair<string, int>[] sorted = [.. words.OrderByDescending(w => w.Value).ThenBy(w => w.Key, StringComparer.Ordinal)];

Node? list = null;
for (int i = 0; i < 400_000; i++) list = new Node(i % 1000 == 0 ? null : list, i); // most of it becomes garbage
long sum = 0;
for (Node? n = list; n is not null; n = n.Next) sum += n.Value;

int caught = 0;
for (int i = 0; i < 2000; i++)
{
    try
    {
        Node? none = i % 2 == 0 ? null : list!.Next?.Next;
        sum += i % 2 == 0 ? none!.Value : 1;
    }
    catch (NullReferenceException)
    {
        caught++;
    }
}

var text = new StringBuilder();
foreach ((string word, int count) in sorted.Take(2000)) text.Append(word).Append('=').Append(count).Append(';');
double[] numbers = [.. Enumerable.Range(0, 300_000).Select(_ => Next() / 7.0)];
Array.Sort(numbers);
Console.WriteLine($"{words.Count} {sorted[0].Key} {sum} {caught} {text.Length} {numbers[1000].ToString("R", CultureInfo.InvariantCulture)}");

uint Next() => seed = seed * 1_664_525 + 1_013_904_223;

internal sealed record Node(Node? Next, int Value);
