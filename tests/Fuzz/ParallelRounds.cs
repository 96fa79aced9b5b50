using System.Diagnostics;

namespace Bunraku.Fuzz;

/// <summary>Rounds by number, on each of the host's processors, until one of them makes trouble.</summary>
/// <param name="count">Of the rounds, from 0 on.</param>
/// <param name="each">What one of them is made of, for lines of progress, as "files"; and how many.</param>
/// <param name="shown">Rounds between two lines of progress.</param>
internal sealed class ParallelRounds(long count, (string What, long Number) each, long shown)
{
    private readonly long _begun = Stopwatch.GetTimestamp();
    private long _next;
    private string? _trouble;

    /// <summary>Since the first round, in whole seconds.</summary>
    public string Elapsed => $"{Stopwatch.GetElapsedTime(_begun).TotalSeconds:F0} s";

    /// <summary>Does the rounds. Returns false where one of them had trouble, which is printed.</summary>
    /// <param name="prepare">By the number of a thread: what it needs for all of its rounds.</param>
    /// <param name="round">One of them: its number. Returns what went wrong.</param>
    public bool Run<T>(Func<int, T> prepare, Func<T, long, string?> round)
    {
        Parallel.For(0, Environment.ProcessorCount, worker =>
        {
            T own = prepare(worker);
            try
            {
                for (long n; (n = Interlocked.Increment(ref _next) - 1) < count && Volatile.Read(ref _trouble) is null;)
                {
                    if (round(own, n) is { } trouble) Interlocked.CompareExchange(ref _trouble, trouble, null);
                    if (n % shown == shown - 1) Console.WriteLine($"{(n + 1) * each.Number:N0} {each.What}, {Elapsed}");
                }
            }
            finally
            {
                (own as IDisposable)?.Dispose();
            }
        });
        if (_trouble is not null) Console.WriteLine(_trouble);
        return _trouble is null;
    }
}
