using Bunraku.Engines;
using Iced.Intel;

namespace Bunraku.DeviceFuzz;

/// <summary>What both guests are made of.</summary>
internal static class GuestParts
{
    public const ushort CodeSelector = 0x08, DataSelector = 0x10;
    public const ulong CodeDescriptor64 = 0x00AF_9B00_0000_FFFF, CodeDescriptor32 = 0x00CF_9B00_0000_FFFF, DataDescriptor = 0x00CF_9300_0000_FFFF;

    /// <summary>A processor at privilege 0 with flat segments and interrupts off; what is missing is paging and where the tables lie.</summary>
    public static CpuState FlatState(ulong entry, uint codeAttributes)
    {
        var data = new SegmentState(DataSelector, 0, uint.MaxValue, 0xC093);
        var state = new CpuState
        {
            Rip = entry,
            Rflags = 2,
            Cr0 = 0x33, // NE, ET, MP, PE
            Xcr0 = 1,
            Dr6 = 0xFFFF_0FF0,
            Dr7 = 0x400,
            Cs = new SegmentState(CodeSelector, 0, uint.MaxValue, codeAttributes),
            Ds = data,
            Es = data,
            Fs = data,
            Gs = data,
            Ss = data,
            Tr = new SegmentState(0, 0, 0xFFFF, 0x8B),
            Ldtr = new SegmentState(0, 0, 0, 0x1_0082),
        };
        BitConverter.TryWriteBytes(state.Xsave, (ushort)0x37F);
        BitConverter.TryWriteBytes(state.Xsave.AsSpan(24), 0x1F80u);
        return state;
    }

    public static byte[] Assemble(int bitness, ulong rip, Action<Assembler> emit, out AssemblerResult result)
    {
        var a = new Assembler(bitness);
        emit(a);
        using var bytes = new MemoryStream();
        result = a.Assemble(new StreamCodeWriter(bytes), rip, BlockEncoderOptions.ReturnNewInstructionOffsets);
        return bytes.ToArray();
    }
}
