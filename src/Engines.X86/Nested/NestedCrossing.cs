using System.Globalization;

namespace Bunraku.Engines.X86;

/// <summary>Is told of every entry into a guest of a hypervisor inside the guest, and of every exit from it.</summary>
/// <remarks>Called on vCPUs' threads, by several at the same time; must not throw, and the guest's speed depends on it.</remarks>
public interface INestedObserver
{
    /// <summary>The vCPU has changed sides: what comes next is an instruction of the other.</summary>
    void Crossed(in NestedCrossing crossing);
}

/// <summary>An entry into a guest inside the guest, or an exit from it.</summary>
/// <param name="Cpu">The vCPU's number, from 0.</param>
/// <param name="IsVmx">Intel's VMX; else AMD's SVM.</param>
/// <param name="IsEntry">The guest begins to run; else it has ended, or an entry has failed.</param>
/// <param name="Control">Physical address of the VMCS or VMCB.</param>
/// <param name="Reason">Exits: the exit reason or EXITCODE.</param>
/// <param name="First">Exits: the exit qualification or EXITINFO1.</param>
/// <param name="Second">Exits: the guest-physical address of violations and misconfigurations of EPT, or EXITINFO2.</param>
/// <param name="Rip">Of the guest.</param>
/// <param name="Instructions">That the vCPU has retired.</param>
/// <param name="Check">Entries that failed: what was checked; null: not known.</param>
public readonly record struct NestedCrossing(
    int Cpu, bool IsVmx, bool IsEntry, ulong Control, ulong Reason, ulong First, ulong Second, ulong Rip, ulong Instructions, string? Check = null)
{
    private const uint EntryFailed = 1u << 31;

    /// <summary>One line: instructions, vCPU, what happened.</summary>
    public override string ToString() =>
        string.Create(CultureInfo.InvariantCulture,
            $"{Instructions,14} cpu{Cpu} {(IsEntry ? "entry" : "exit ")} rip {Rip:x16} {(IsVmx ? "vmcs" : "vmcb")} {Control:x}{Details()}");

    private string Details()
    {
        if (IsEntry) return "";
        if (!IsVmx) return string.Create(CultureInfo.InvariantCulture, $" {SvmNames.Of((SvmExit)Reason)} exitinfo1 {First:x} exitinfo2 {Second:x}");
        var reason = (VmxExitReason)(ushort)Reason;
        string text = string.Create(CultureInfo.InvariantCulture, $" {VmxNames.Of(reason)} qualification {First:x}");
        if (reason is VmxExitReason.EptViolation or VmxExitReason.EptMisconfiguration) text += string.Create(CultureInfo.InvariantCulture, $" at {Second:x}");
        if ((Reason & EntryFailed) != 0) text += Check is null ? " (the entry failed)" : $" (the entry failed: {Check})";
        return text;
    }
}

/// <summary>Names of SVM for people. AMD APM vol. 2, appendix "SVM Intercept Exit Codes".</summary>
public static class SvmNames
{
    /// <summary>An exit code's name; its number where it has none.</summary>
    public static string Of(SvmExit code)
    {
        if (code is >= SvmExit.Exception0 and < SvmExit.Intr) return $"Exception{code - SvmExit.Exception0}";
        if (code >= SvmExit.ReadCr0 && code < SvmExit.Exception0)
            return $"{(((ulong)code & 0x10) != 0 ? "Write" : "Read")}{((ulong)code < 0x20 ? "Cr" : "Dr")}{(ulong)code & 0xF}";
        return Enum.GetName(code) ?? $"{(ulong)code:X}H";
    }
}
