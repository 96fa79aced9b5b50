using System.Globalization;

namespace Bunraku.Sessions;

/// <summary>One VM exit as it was handled, copied out of the vCPU's reused <see cref="X86Exit"/>.</summary>
/// <param name="Nanoseconds">Virtual time since power-on.</param>
public readonly record struct ExitRecord(
    long Nanoseconds, int Cpu, ExitReason Reason, bool IsWrite, int Size, ulong Address, ulong Data, bool Fault, uint Leaf, uint Subleaf, string? Message)
{
    /// <summary>Copies an exit.</summary>
    /// <param name="nanoseconds">Virtual time since power-on.</param>
    /// <param name="cpu">The vCPU's number, from 0.</param>
    /// <param name="e">The exit after it was handled.</param>
    public static ExitRecord From(long nanoseconds, int cpu, X86Exit e) =>
        new(nanoseconds, cpu, e.Reason, e.IsWrite, e.Size, e.Address, e.Data, e.Fault, e.Leaf, e.Subleaf, e.Message);

    /// <summary>One line: seconds of virtual time, vCPU, reason, what was accessed.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{Nanoseconds / 1e9,12:0.000000} cpu{Cpu} {Reason}{Details()}");

    private string Details() => Reason switch
    {
        ExitReason.Io => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "out" : "in")} port {Address:x4} size {Size} value {Masked:x}"),
        ExitReason.Mmio => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "write" : "read")} {Address:x} size {Size} value {Masked:x}"),
        ExitReason.Msr => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "wrmsr" : "rdmsr")} {Address:x8} {(Fault ? "#GP" : $"value {Data:x}")}"),
        ExitReason.CrAccess => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "write" : "read")} cr{Address} value {Data:x}"),
        ExitReason.DrAccess => string.Create(CultureInfo.InvariantCulture, $" {(IsWrite ? "write" : "read")} dr{Address}"),
        ExitReason.Cpuid => string.Create(CultureInfo.InvariantCulture, $" leaf {Leaf:x} subleaf {Subleaf:x}"),
        ExitReason.Exception => string.Create(CultureInfo.InvariantCulture, $" vector {Address}"),
        ExitReason.InternalError => $" {Message}",
        _ => "",
    };

    private ulong Masked => Size is > 0 and < 8 ? Data & ((1ul << (8 * Size)) - 1) : Data;
}
