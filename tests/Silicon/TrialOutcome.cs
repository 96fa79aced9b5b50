using Iced.Intel;

namespace Bunraku.Silicon;

/// <summary>What one trial left behind in both worlds; offsets are those of <see cref="Context"/>.</summary>
internal readonly unsafe struct TrialOutcome(TestCase test, int trial, GuestRig rig)
{
    private readonly ulong _context = Layout.Contexts + (ulong)(trial * Context.Size);

    public TestCase Test { get; } = test;
    public Mnemonic Mnemonic => Test.Instruction.Mnemonic;

    public Span<byte> Silicon => Host(_context, Context.Size);
    public Span<byte> Guest => InGuest(_context, Context.Size);

    /// <summary>Exception vectors; all ones for none.</summary>
    public ulong SiliconVector => Word(Silicon, Context.FaultVector);
    public ulong GuestVector => Word(Guest, Context.FaultVector);

    /// <summary>Both worlds raised the same exception for a memory operand: #SS, #GP or #PF.</summary>
    public bool BothFaulted => SiliconVector is 12 or 13 or 14 && GuestVector == SiliconVector;

    public static ulong Word(ReadOnlySpan<byte> bytes, int offset) => BitConverter.ToUInt64(bytes[offset..]);
    public static uint Dword(ReadOnlySpan<byte> bytes, int offset) => BitConverter.ToUInt32(bytes[offset..]);

    /// <summary>A general register before the trial, and after it on the silicon.</summary>
    public ulong In(Register register) => Word(Silicon, Context.Gpr + (register - Register.RAX) * 8);
    public ulong Out(Register register) => Word(Silicon, Context.OutGpr + (register - Register.RAX) * 8);

    /// <summary>The silicon's outcome is permitted: the guest's becomes equal.</summary>
    public void Accept(int offset, int length) => Silicon.Slice(offset, length).CopyTo(Guest[offset..]);

    /// <summary>The same for a quadword, if the silicon's is <paramref name="permitted"/> and the guest's is <paramref name="ours"/>.</summary>
    public void AcceptIf(int offset, ulong permitted, ulong ours)
    {
        if (Word(Silicon, offset) == permitted && Word(Guest, offset) == ours) Accept(offset, 8);
    }

    /// <summary>Memory of the rig, on the host and in the guest.</summary>
    public static Span<byte> Host(ulong address, int length) => new((void*)address, length);
    public Span<byte> InGuest(ulong address, int length) => new(rig.Pointer(address), length);

    /// <summary>Linear address of the explicit memory operand, and its bytes.</summary>
    public ulong Operand => Word(Silicon, Context.Operand);
    public int OperandSize => Math.Max(1, Test.Instruction.MemorySize.GetSize());
}
