namespace Bunraku.Engines.X86;

/// <summary>
/// What processors of the two vendors do differently with the same bytes, beyond what CPUID enumerates: each manual defines its own side, and a guest
/// may rely on what the vendor of its CPU model says. So it belongs to the model, and every engine in software gives it on every host.
/// </summary>
/// <remarks>Sources: Intel SDM (order number 325462), AMD APM (volumes 2 and 3, 24593 and 24594). Immutable.</remarks>
public sealed record VendorBehavior
{
    /// <summary>
    /// In 64-bit mode the operand-size prefix 66h makes JMP, Jcc, LOOPcc, JrCXZ, CALL and RET near 16 bits wide: displacement, stack slot and the new RIP.
    /// AMD APM vol. 3 "Jcc", "CALL (Near)", "RET (Near)"; where it is false the prefix is ignored: Intel SDM vol. 2A "Jcc", "In 64-bit mode the target
    /// operand is always 64-bits".
    /// </summary>
    public required bool OperandSizePrefixNarrowsNearBranches { get; init; }

    /// <summary>
    /// F3 E0 is LOOPE and F2 E1 is LOOPNE. Neither manual names it; measured on AMD's families 19h and 1Ah. Intel's processors ignore the prefix (SDM vol. 2A
    /// "Instruction Prefixes").
    /// </summary>
    public required bool RepeatPrefixChoosesLoopCondition { get; init; }

    /// <summary>
    /// VPERMQ and VPERMPD with VEX.W = 0 are executed as with W = 1. Intel SDM vol. 2C "VPERMQ": #UD if VEX.W = 0; measured on AMD's families 19h and 1Ah.
    /// </summary>
    public required bool IgnoresWOfQuadwordPermutes { get; init; }

    /// <summary>0F 0D with a register operand raises #UD. AMD APM vol. 3 "PREFETCHlevel"; Intel SDM vol. 2D "Opcode Map": reserved NOP.</summary>
    public required bool PrefetchOfRegisterIsUndefined { get; init; }

    /// <summary>
    /// MOVSXD with the operand-size prefix reads a doubleword, of which it keeps the lower half. AMD APM vol. 3 "MOVSXD"; Intel SDM vol. 2B "MOVSXD": r/m16.
    /// </summary>
    public required bool WordMovsxdReadsDoubleword { get; init; }

    /// <summary>
    /// SHA instructions take a memory operand that is not aligned to 16 bytes. Intel SDM vol. 2B "SHA1MSG1" refers to "Exceptions Type 4"; measured on AMD's
    /// families 19h and 1Ah.
    /// </summary>
    public required bool TakesUnalignedShaOperand { get; init; }

    /// <summary>
    /// PUSH Sreg of 32 bits writes all four bytes. Intel SDM vol. 2B "PUSH", IA-32 Architecture Compatibility: recent processors write the low word only.
    /// </summary>
    public required bool PushesWholeSegmentSlot { get; init; }

    /// <summary>
    /// POP Sreg reads its whole slot, so that a page fault of the bytes behind the selector comes before the selector's own faults. Open in both manuals;
    /// measured on each vendor.
    /// </summary>
    public required bool PopsWholeSegmentSlot { get; init; }

    /// <summary>
    /// FXSAVE and XSAVE store FOP, FIP and FDP for a pending exception only. AMD APM vol. 2 "FXSAVE and FXRSTOR Instructions"; Intel SDM vol. 1 "x87 State"
    /// stores them always.
    /// </summary>
    public required bool SavesX87PointersForExceptionsOnly { get; init; }

    /// <summary>SYSCALL and SYSRET exist outside 64-bit mode, too. AMD APM vol. 3 "SYSCALL"; Intel SDM vol. 2B "SYSCALL": #UD.</summary>
    public required bool HasSyscallOutside64BitMode { get; init; }

    /// <summary>SYSENTER and SYSEXIT exist in long mode, too. Intel SDM vol. 2B "SYSENTER"; AMD APM vol. 3 "SYSENTER": #UD in long mode.</summary>
    public required bool HasSysenterInLongMode { get; init; }

    /// <summary>
    /// SYSRET raises #GP(0) at CPL 0 for a non-canonical RCX (Intel SDM vol. 2B "SYSRET"); else the first fetch at CPL 3 does (AMD APM vol. 3 "SYSRET").
    /// </summary>
    public required bool SysretChecksTarget { get; init; }

    /// <summary>SYSRET sets the whole of SS (Intel SDM vol. 2B "SYSRET"); else base, limit and attributes stay (AMD APM vol. 3 "SYSRET").</summary>
    public required bool SysretLoadsStackDescriptor { get; init; }

    /// <summary>
    /// An instruction breakpoint behind MOV SS or POP SS is held back. Intel SDM vol. 3B "Instruction-Breakpoint Exception Condition";
    /// AMD APM vol. 2 "Single Stepping" holds back traps only.
    /// </summary>
    public required bool MovSsHoldsBackInstructionBreakpoint { get; init; }

    /// <summary>
    /// RDPMC reads the four counters of AMD's family 0Fh (AMD APM vol. 2 "Performance Counter MSRs"); no model of ours has Intel's, whose number CPUID leaf
    /// 0Ah gives.
    /// </summary>
    public required bool HasLegacyCounters { get; init; }

    /// <summary>
    /// An operand that reaches beyond FFFFFFFFh in a segment of base 0 and limit FFFFFFFFh goes on at linear address 0; otherwise it violates the limit.
    /// Intel SDM vol. 3A, "Limit Checking": such accesses "may or may not cause the indicated exceptions". Measured: family 6 model 207 wraps, and
    /// only with base 0; AMD families 25 and 26 raise #GP(0) or #SS(0).
    /// </summary>
    public required bool FlatSegmentsWrap { get; init; }

    /// <summary>
    /// Far pointers, x87 environments and the bounds of BOUND are read and written field by field, and a page fault of the first field comes before the
    /// violation of a limit, or of canonicality, by a later one. Otherwise the whole operand is checked first. No manual tells; measured on family 6 model 207.
    /// </summary>
    public required bool StructuresInPieces { get; init; }

    /// <summary>
    /// VCVTPS2PH with underflow unmasked sets PE for a denormal operand though the result would be exact if its exponent had no limits. Measured on family 6
    /// model 207; otherwise as Intel SDM vol. 1, "Numeric Underflow Exception (#U)", says.
    /// </summary>
    public required bool DenormalToHalfIsInexact { get; init; }

    /// <summary>
    /// VCVTPS2PH to memory converts before it looks at its operand: #XM comes before the faults of the store, and these leave MXCSR changed. Intel SDM vol. 2,
    /// VCVTPS2PH, tells no order; measured on family 6 model 207. AMD's families 25 and 26 look at the operand first.
    /// </summary>
    public required bool ConvertsToHalfBeforeStore { get; init; }

    /// <summary>AuthenticAMD.</summary>
    public static VendorBehavior Amd { get; } = new()
    {
        OperandSizePrefixNarrowsNearBranches = true,
        RepeatPrefixChoosesLoopCondition = true,
        IgnoresWOfQuadwordPermutes = true,
        PrefetchOfRegisterIsUndefined = true,
        WordMovsxdReadsDoubleword = true,
        TakesUnalignedShaOperand = true,
        PushesWholeSegmentSlot = true,
        PopsWholeSegmentSlot = true,
        SavesX87PointersForExceptionsOnly = true,
        HasSyscallOutside64BitMode = true,
        HasSysenterInLongMode = false,
        SysretChecksTarget = false,
        SysretLoadsStackDescriptor = false,
        MovSsHoldsBackInstructionBreakpoint = false,
        HasLegacyCounters = true,
        FlatSegmentsWrap = false,
        StructuresInPieces = false,
        DenormalToHalfIsInexact = false,
        ConvertsToHalfBeforeStore = false,
    };

    /// <summary>GenuineIntel.</summary>
    public static VendorBehavior Intel { get; } = new()
    {
        OperandSizePrefixNarrowsNearBranches = false,
        RepeatPrefixChoosesLoopCondition = false,
        IgnoresWOfQuadwordPermutes = false,
        PrefetchOfRegisterIsUndefined = false,
        WordMovsxdReadsDoubleword = false,
        TakesUnalignedShaOperand = false,
        PushesWholeSegmentSlot = false,
        PopsWholeSegmentSlot = false,
        SavesX87PointersForExceptionsOnly = false,
        HasSyscallOutside64BitMode = false,
        HasSysenterInLongMode = true,
        SysretChecksTarget = true,
        SysretLoadsStackDescriptor = true,
        MovSsHoldsBackInstructionBreakpoint = true,
        HasLegacyCounters = false,
        FlatSegmentsWrap = true,
        StructuresInPieces = true,
        DenormalToHalfIsInexact = true,
        ConvertsToHalfBeforeStore = true,
    };
}
