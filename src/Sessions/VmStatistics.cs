using System.Globalization;
using System.Text;
using System.Text.Json;
using Bunraku.Hypervisor;
using Bunraku.Platform;

namespace Bunraku.Sessions;

/// <summary>The figures of one run. Times are wall time from the start of the process, in milliseconds; null where it did not come to that.</summary>
/// <param name="VmCreatedMs">Memory, processor and board exist and the kernel is loaded.</param>
/// <param name="KernelEntryMs">The vCPU is about to execute the kernel's first instruction.</param>
/// <param name="FirstUserMs">The processor entered privilege level 3 for the first time: the first user process of an operating system.</param>
/// <param name="EndMs">The machine powered off or ended otherwise.</param>
/// <param name="Instructions">Retired on all vCPUs.</param>
/// <param name="Mips">Million instructions per second of wall time from kernel entry to the end, halted time included.</param>
/// <param name="Exits">Exits by reason, reasons that occurred only.</param>
/// <param name="ClockSeconds">Virtual time.</param>
/// <param name="ClockAheadUs">Microseconds that it ran ahead of the host's clock.</param>
/// <param name="RunMs">Time that the vCPUs' threads had a processor of the host.</param>
/// <param name="WaitMs">Time that they were ready and waited for one, as the host's scheduler counts it.</param>
/// <param name="WithheldMs">Time that a limit held them back beyond that.</param>
/// <param name="GuestBytes">RAM of the guest.</param>
/// <param name="GuestTouchedBytes">Guest RAM that has a host page behind it.</param>
/// <param name="MonitorBytes">Host memory of the process beyond that; what it sees at two addresses, as emitted code, counts once.</param>
/// <param name="Execution">Caches and further counts of the engine, all vCPUs together; null: it has none.</param>
/// <param name="Work">What the vCPUs' threads spent their time with; null: no samples were taken, or the engine does not say.</param>
public sealed record VmStatistics(
    string Engine, string Cpu,
    double VmCreatedMs, double KernelEntryMs, double? FirstUserMs, double EndMs,
    ulong Instructions, double Mips, IReadOnlyList<KeyValuePair<ExitReason, ulong>> Exits, EngineCounters Counters,
    double ClockSeconds, double ClockAheadUs,
    double RunMs, double WaitMs, double WithheldMs,
    ulong GuestBytes, ulong GuestTouchedBytes, ulong MonitorBytes,
    ExecutionReport? Execution = null, WorkTimes? Work = null)
{
    /// <summary>Adds up what the vCPUs counted.</summary>
    public static EngineCounters Sum(IEnumerable<EngineCounters> counters) => counters.Aggregate(default(EngineCounters), (a, b) => new EngineCounters(
        a.InstructionsRetired + b.InstructionsRetired,
        a.BlocksDecoded + b.BlocksDecoded,
        a.BlocksInvalidated + b.BlocksInvalidated,
        a.TlbMisses + b.TlbMisses,
        a.TlbFlushes + b.TlbFlushes,
        a.ExceptionsDelivered + b.ExceptionsDelivered,
        a.InterruptsDelivered + b.InterruptsDelivered,
        BlocksTranslated: a.BlocksTranslated + b.BlocksTranslated,
        CodeFlushes: a.CodeFlushes + b.CodeFlushes));

    /// <summary>Exits of all vCPUs by reason, most frequent first.</summary>
    public static IReadOnlyList<KeyValuePair<ExitReason, ulong>> SumExits(X86Machine vm) =>
        [.. Enum.GetValues<ExitReason>()
            .Select(r => KeyValuePair.Create(r, vm.Cpus.Aggregate(0ul, (sum, cpu) => sum + cpu.Exits[(byte)r])))
            .Where(p => p.Value > 0)
            .OrderByDescending(p => p.Value)];

    /// <summary>Memory of the guest and of the monitor beyond it.</summary>
    public static (ulong Touched, ulong Monitor) Memory(X86Machine vm) =>
        (HostProcess.TouchedBytes(vm.Memory.Backing), HostProcess.ResidentBytesBeyond(vm.Memory.Backing));

    /// <summary>A table for people.</summary>
    public override string ToString() => Summary + Details;

    /// <summary>The second part of the table: where time goes, caches and counts of the engine. Empty when there is nothing to tell.</summary>
    public string Details => ExecutionText.Table(Execution, Work);

    /// <summary>The first part of the table: times, instructions, exits, memory.</summary>
    public string Summary => Summarize();

    private string Summarize()
    {
        var text = new StringBuilder();
        Line("engine", $"{Engine}, cpu {Cpu}");
        Line("VM created", $"{VmCreatedMs:0.0} ms");
        Line("kernel entry", $"{KernelEntryMs:0.0} ms");
        if (FirstUserMs is { } user) Line("first user process", $"{user:0.0} ms ({user - KernelEntryMs:0.0} ms after kernel entry)");
        Line("end", $"{EndMs:0.0} ms");
        Line("instructions", $"{Instructions:#,0} ({Mips:0.0} MIPS)");
        EngineCounters c = Counters;
        Line("blocks",
            $"{c.BlocksDecoded:#,0} decoded, {c.BlocksTranslated:#,0} translated, {c.BlocksInvalidated:#,0} invalidated, given up {c.CodeFlushes:#,0} times");
        Line("TLB", $"{Counters.TlbMisses:#,0} misses, {Counters.TlbFlushes:#,0} flushes");
        Line("events", $"{Counters.InterruptsDelivered:#,0} interrupts, {Counters.ExceptionsDelivered:#,0} exceptions");
        Line("exits", $"{Exits.Aggregate(0ul, (sum, e) => sum + e.Value):#,0}");
        foreach ((ExitReason reason, ulong count) in Exits) Line("  " + reason, $"{count:#,0}");
        Line("clock", $"{ClockSeconds:0.000} s, {ClockAheadUs:+0.0;-0.0;0} us against the host's");
        Line("host CPU time", $"{RunMs:0.0} ms, waited {WaitMs:0.0} ms, withheld {WithheldMs:0.0} ms");
        Line("guest memory", $"{ByteSize.Format(GuestBytes)}, touched {ByteSize.Format(GuestTouchedBytes)}");
        Line("monitor memory", $"{ByteSize.Format(MonitorBytes)} beyond the guest's");
        return text.ToString();

        void Line(string name, FormattableString value) => text.Append(name.PadRight(20)).Append(value.ToString(CultureInfo.InvariantCulture)).Append('\n');
    }

    /// <summary>The same figures as one JSON object: times in milliseconds, memory in bytes.</summary>
    public string ToJson()
    {
        using var stream = new MemoryStream();
        using (var json = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true }))
        {
            json.WriteStartObject();
            json.WriteString("engine", Engine);
            json.WriteString("cpu", Cpu);
            json.WriteStartObject("milliseconds");
            json.WriteNumber("vmCreated", Rounded(VmCreatedMs));
            json.WriteNumber("kernelEntry", Rounded(KernelEntryMs));
            if (FirstUserMs is { } user) json.WriteNumber("firstUserProcess", Rounded(user));
            else json.WriteNull("firstUserProcess");
            json.WriteNumber("end", Rounded(EndMs));
            json.WriteEndObject();
            json.WriteNumber("instructions", Instructions);
            json.WriteNumber("mips", Rounded(Mips));
            json.WriteStartObject("exits");
            foreach ((ExitReason reason, ulong count) in Exits) json.WriteNumber(JsonNamingPolicy.CamelCase.ConvertName(reason.ToString()), count);
            json.WriteEndObject();
            json.WriteStartObject("counters");
            json.WriteNumber("blocksDecoded", Counters.BlocksDecoded);
            json.WriteNumber("blocksInvalidated", Counters.BlocksInvalidated);
            json.WriteNumber("blocksTranslated", Counters.BlocksTranslated);
            json.WriteNumber("codeFlushes", Counters.CodeFlushes);
            json.WriteNumber("tlbMisses", Counters.TlbMisses);
            json.WriteNumber("tlbFlushes", Counters.TlbFlushes);
            json.WriteNumber("exceptionsDelivered", Counters.ExceptionsDelivered);
            json.WriteNumber("interruptsDelivered", Counters.InterruptsDelivered);
            json.WriteEndObject();
            json.WriteStartObject("clock");
            json.WriteNumber("seconds", Rounded(ClockSeconds));
            json.WriteNumber("aheadMicroseconds", Rounded(ClockAheadUs));
            json.WriteEndObject();
            json.WriteStartObject("cpuTime");
            json.WriteNumber("run", Rounded(RunMs));
            json.WriteNumber("wait", Rounded(WaitMs));
            json.WriteNumber("withheld", Rounded(WithheldMs));
            json.WriteEndObject();
            json.WriteStartObject("memory");
            json.WriteNumber("guest", GuestBytes);
            json.WriteNumber("guestTouched", GuestTouchedBytes);
            json.WriteNumber("monitor", MonitorBytes);
            json.WriteEndObject();
            ExecutionText.Write(json, Execution, Work);
            json.WriteEndObject();
        }
        return Encoding.UTF8.GetString(stream.ToArray()) + "\n";

        static double Rounded(double value) => Math.Round(value, 3);
    }
}
