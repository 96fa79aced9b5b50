namespace Bunraku.Compare;

/// <summary>
/// Groups of workloads, as bench/workloads/main.c spells them; boot is measured from outside, and a program is a line of bench/Programs/list.
/// Footprints are measured by themselves.
/// </summary>
internal static class Group
{
    public const string Integer = "integer", Float = "float", Simd = "simd", OperatingSystem = "os", Boot = "boot";
    public const string Program = "program", Footprint = "footprint";
    public const string Paging = "paging"; // for bunraku lab paging; here where it is asked for
    public const string Compute = "compute"; // the first three

    public static bool IsCompute(string group) => group is Integer or Float or Simd;
}

/// <summary>One row of the result.</summary>
/// <param name="Operations">Operations in one unit of the guest's program; times are given for one operation.</param>
/// <param name="Operation">What is counted, in the singular.</param>
internal sealed record Workload(string Name, string Group, ulong Operations, string Operation)
{
    /// <summary>From the monitor's start to the first user process.</summary>
    public static readonly Workload Start = new("start", Compare.Group.Boot, 1, "from the monitor's start to the first process");

    /// <summary>From the kernel's entry, or in a guest of a guest from the start of its QEMU, to the first user process.</summary>
    public static readonly Workload Kernel =
        new("kernel", Compare.Group.Boot, 1, "from the kernel's entry, L2: from QEMU's start inside, to the first process");

    /// <summary>The whole monitor, from its start to its end, for one small command.</summary>
    public static readonly Workload True = new("run-true", Compare.Group.Boot, 1, "whole process for the command 'true'");

    public bool IsCompute => Compare.Group.IsCompute(Group);

    /// <summary>True when <paramref name="names"/> is empty or has this workload's name or group.</summary>
    public bool IsIn(IReadOnlyList<string> names) =>
        names.Count == 0 || names.Contains(Name) || names.Contains(Group) || (IsCompute && names.Contains(Compare.Group.Compute));
}
