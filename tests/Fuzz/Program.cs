using System.Diagnostics;
using Bunraku.Engines;
using Bunraku.Processor.X86;
using Bunraku.Silicon;
using Iced.Intel;

var model = CpuModels.Parse("max");
using var host = new HostSilicon();
using var guest = new GuestRig(new InterpreterEngine(), model);
var comparer = new Comparer(host, guest);
var tester = new FormTester(comparer, model);
var watch = Stopwatch.StartNew();
int total = 0, bad = 0;
foreach (int bitness in (int[])[64, 32, 16])
{
    foreach (Code code in FormList.For(model, bitness))
    {
        if (args.Length > 0 && !code.ToString().Contains(args[0], StringComparison.OrdinalIgnoreCase)) continue;
        if (Exclusions.Reason(code) != null) continue;
        if (Environment.GetEnvironmentVariable("V") != null) Console.Error.WriteLine($"{bitness} {code}");
        total++;
        var differences = new List<Difference>();
        try { if (!tester.Run(code, bitness, 1, differences)) Console.WriteLine($"NOENC {bitness} {code}"); }
        catch (Exception e) when (e is not NotSupportedException { Message: "x" }) { Console.WriteLine($"EXC {bitness} {code} {e.GetType().Name} {e.Message}"); continue; }
        if (differences.Count > 0)
        {
            bad++;
            Console.WriteLine($"DIFF {bitness} {code} ({differences.Count})");
            foreach (Difference d in differences.Take(args.Length > 0 ? 8 : 1)) Console.WriteLine("  " + d);
        }
    }
}
Console.WriteLine($"{total} forms, {comparer.Trials} trials, {bad} differ, {watch.Elapsed}");
