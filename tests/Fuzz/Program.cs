using Bunraku.Fuzz;

<<<<<<< HEAD
// The longer comparison with the host's silicon: random instruction sequences until enough instructions were compared.
// With --form it runs the instruction forms whose name contains the text and prints what differs.
const string usage = "usage: fuzz-silicon [--count INSTRUCTIONS] [--seed N] [--engine interp|bt] [--form TEXT]";
long count = 100_000_000;
ulong seed = (ulong)Stopwatch.GetTimestamp() % 1_000_000_000;
string engineName = "interp";
string? form = null;
for (int n = 0; n < args.Length; n += 2)
=======
// fuzz-silicon and fuzz-engines are scripts that start this with their word.
return args switch
>>>>>>> adf645c (Random programs on two engines, compared at every exit; vCPUs that run to an exact place)
{
    ["silicon", .. string[] rest] => SiliconCommand.Run(rest),
    ["engines", .. string[] rest] => EnginesCommand.Run(rest),
    _ => Usage(),
};

static int Usage()
{
    Console.Error.WriteLine("usage: fuzz silicon|engines [options]");
    return 2;
}
<<<<<<< HEAD
IEngine[] engines = [new InterpreterEngine(), new TranslatorEngine(threshold: 2)];
if (engines.FirstOrDefault(e => e.Name == engineName) is not { } engine)
{
    Console.Error.WriteLine($"fuzz-silicon: no engine '{engineName}'; there is: {string.Join(", ", engines.Select(e => e.Name))}");
    return 2;
}

CpuModel model = CpuModels.Parse("max,+monitor,-la57");
using var host = new HostSilicon();
using var guest = new GuestRig(engine, model);
var comparer = new Comparer(host, guest);
var watch = Stopwatch.StartNew();
return form != null ? Forms(form) : Sequences();

int Sequences()
{
    var fuzzer = new SequenceFuzzer(comparer, guest, model);
    ulong first = seed;
    Console.WriteLine($"{count:N0} instructions in random sequences, seeds from {first} on");
    TimeSpan shown = TimeSpan.Zero;
    int differing = 0;
    for (; fuzzer.Compared < count && differing < 10; seed++)
    {
        if (fuzzer.Run(seed) is { } difference)
        {
            differing++;
            Console.WriteLine(difference);
        }
        if (watch.Elapsed - shown < TimeSpan.FromSeconds(10)) continue;
        shown = watch.Elapsed;
        Console.WriteLine($"{fuzzer.Compared:N0} instructions compared, {seed - first + 1} sequences, {watch.Elapsed.TotalSeconds:F0} s");
    }
    Console.WriteLine($"{fuzzer.Compared:N0} instructions compared in {seed - first} sequences with seeds {first} to {seed - 1}, {differing} differ, {watch.Elapsed.TotalSeconds:F0} s");
    return differing == 0 ? 0 : 1;
}

int Forms(string text)
{
    var tester = new FormTester(comparer, model);
    int forms = 0, differing = 0;
    foreach (int bitness in (int[])[64, 32, 16])
    {
        foreach (Code code in FormList.For(model, bitness))
        {
            if (!code.ToString().Contains(text, StringComparison.OrdinalIgnoreCase) || Exclusions.Reason(code) != null) continue;
            forms++;
            var differences = new List<Difference>();
            if (!tester.Run(code, bitness, seed, differences)) Console.WriteLine($"{bitness}-bit {code}: no encoding");
            if (differences.Count == 0) continue;
            differing++;
            foreach (Difference d in differences) Console.WriteLine(d);
        }
    }
    Console.WriteLine($"{forms} forms, {comparer.Trials:N0} trials, {differing} forms differ, {watch.Elapsed.TotalSeconds:F0} s");
    return differing == 0 ? 0 : 1;
}
=======
>>>>>>> adf645c (Random programs on two engines, compared at every exit; vCPUs that run to an exact place)
