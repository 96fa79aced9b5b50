using System.Runtime.InteropServices;
using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>Maps Iced's registers to what <see cref="Insn"/> holds for them: offsets into <see cref="ProcessorState"/>, or numbers.</summary>
internal static unsafe class RegisterOffsets
{
    private static readonly ushort[] s_offsets = Build();

    public static readonly ushort Zero = Offset(nameof(ProcessorState.Zero)), BlockRip = Offset(nameof(ProcessorState.BlockRip)),
        PreparedAddress = Offset(nameof(ProcessorState.PreparedAddress));

    /// <summary>Offset of a general or vector register, number of any other.</summary>
    public static ushort Of(Iced.Intel.Register register) => s_offsets[(int)register];

    /// <summary>Offset of the 64-bit base of a segment register.</summary>
    public static ushort BaseOf(Seg segment) => (ushort)(Offset(nameof(ProcessorState.Es)) + (int)segment * sizeof(SegmentRegister));

    private static ushort Offset(string field) => (ushort)Marshal.OffsetOf<ProcessorState>(field);

    private static ushort[] Build()
    {
        var offsets = new ushort[Enum.GetValues<Iced.Intel.Register>().Cast<int>().Max() + 1];
        int gpr = Offset(nameof(ProcessorState.Rax)), vector = Offset(nameof(ProcessorState.Simd));
        foreach (Iced.Intel.Register r in Enum.GetValues<Iced.Intel.Register>())
        {
            if (r == Iced.Intel.Register.None) offsets[(int)r] = Offset(nameof(ProcessorState.Zero));
            else if (r is >= Iced.Intel.Register.AH and <= Iced.Intel.Register.BH) offsets[(int)r] = (ushort)(gpr + 8 * (r - Iced.Intel.Register.AH) + 1);
            else if (r.IsGPR()) offsets[(int)r] = (ushort)(gpr + 8 * (r.GetFullRegister() - Iced.Intel.Register.RAX));
            else if (r.IsVectorRegister() && r.GetNumber() < 16) offsets[(int)r] = (ushort)(vector + 32 * r.GetNumber());
            else if (r.IsSegmentRegister()) offsets[(int)r] = (ushort)(r - Iced.Intel.Register.ES);
            else if (r is Iced.Intel.Register.RIP or Iced.Intel.Register.EIP) offsets[(int)r] = Offset(nameof(ProcessorState.BlockRip));
            else offsets[(int)r] = (ushort)r.GetNumber();
        }
        return offsets;
    }
}
