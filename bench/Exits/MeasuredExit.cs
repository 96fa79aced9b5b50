using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Bench.Exits;

/// <summary>One kind of exit: the instruction that a guest repeats, and what stands around it.</summary>
/// <param name="Emit">One repetition; ECX and ESI are the loop's.</param>
/// <param name="Doorbell">What is to signal an event instead of exiting; null: nothing.</param>
/// <param name="Posted">The writes may be gathered.</param>
internal sealed record MeasuredExit(string Name, Action<Assembler> Emit, Doorbell? Doorbell = null, bool Posted = false)
{
    public const ushort Port = 0x500;
    private const long Device = 0xD000_0000;

    public static IReadOnlyList<MeasuredExit> All { get; } =
    [
        new("nothing (the loop alone)", _ => { }),
        new("OUT", a => a.@out(dx, al)),
        new("IN", a => a.@in(al, dx)),
        new("write to device memory", a => a.mov(__dword_ptr[Device], eax)),
        new("read from device memory", a => a.mov(eax, __dword_ptr[Device])),
        new("MOVZX from device memory", a => a.movzx(eax, __byte_ptr[Device + 1])),
        new("TEST of device memory", a => a.test(__dword_ptr[Device], 1)),
        new("OR to device memory (a read and a write)", a => a.or(__dword_ptr[Device], eax)),
        new("LODS from device memory", a => { a.mov(esi, unchecked((uint)Device)); a.lodsd(); }),
        new("XCHG with device memory (by an exception)", a => a.xchg(__dword_ptr[Device], eax)),
        new("OUT to a doorbell", a => a.@out(dx, al), new Doorbell(true, Port, 1)),
        new("OUT, posted", a => a.@out(dx, al), Posted: true),
    ];
}
