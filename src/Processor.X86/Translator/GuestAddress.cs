namespace Bunraku.Processor.X86;

/// <summary>A memory operand's linear address, in terms of guest registers.</summary>
/// <param name="Base">Guest register, or -1.</param>
/// <param name="Index">Guest register, or -1.</param>
/// <param name="Scale">log2 of the index scale.</param>
/// <param name="Displacement">Added; where there are no registers, the whole offset.</param>
/// <param name="Wide">The offset has 64 bits, else it is truncated to 32.</param>
/// <param name="SegmentBase">Offset in the state of a base to be added after truncation, or 0.</param>
internal readonly record struct GuestAddress(int Base, int Index, int Scale, long Displacement, bool Wide, int SegmentBase)
{
    /// <summary>The address is known: it is <see cref="Displacement"/>.</summary>
    public bool IsConstant => Base < 0 && Index < 0 && SegmentBase == 0;

    public ulong Constant => Wide ? (ulong)Displacement : (uint)Displacement;

    /// <summary>The displacement contains RIP.</summary>
    public bool IsRelative { get; init; }

    /// <summary>
    /// The memory operand of a decoded operation in a block at <paramref name="rip"/>. False: 16-bit addressing, or segmentation that needs checks.
    /// </summary>
    public static unsafe bool TryGet(Insn* operation, ulong rip, out GuestAddress address)
    {
        address = default;
        if (operation->AddressMask is not (ulong.MaxValue or uint.MaxValue) || operation->Base == RegisterOffsets.PreparedAddress) return false;
        bool relative = operation->Base == RegisterOffsets.BlockRip;
        int @base = relative ? -1 : Number(operation->Base), index = Number(operation->Index);
        // An index alone with scale 1 is a base.
        if (@base < 0 && index >= 0 && operation->Scale == 0) (@base, index) = (index, -1);
        int segment = operation->SegmentBase == RegisterOffsets.Zero ? 0 : operation->SegmentBase;
        address = new GuestAddress(@base, index, operation->Scale, relative ? (long)rip + operation->Disp : operation->Disp,
            operation->AddressMask == ulong.MaxValue, segment)
        {
            IsRelative = relative,
        };
        return true;

        static int Number(ushort offset) => offset < 16 * sizeof(ulong) ? offset / sizeof(ulong) : -1;
    }

    /// <summary>The top of the stack, moved by <paramref name="displacement"/>.</summary>
    public static GuestAddress Stack(int displacement, bool wide) => new(4, -1, 0, displacement, wide, 0);
}
