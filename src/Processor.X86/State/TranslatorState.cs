using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// The part of <see cref="ProcessorState"/> that only translated code and its entry and exit touch. The tables are the first level of the software TLB and
/// of the jump cache: they hold nothing that the interpreter's do not allow now, and are dropped whenever the space, the rights or a mapping change.
/// </summary>
/// <remarks>
/// Invariant: a first-level entry is present only while the corresponding mapping could be in the software TLB under the present address space.
/// Tags are negated, so that adding the wanted one gives zero and a flag-free JRCXZ decides.
/// </remarks>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct TranslatorState
{
    /// <summary>Arithmetic flags between C# and emitted code: bits 15:8 as LAHF stores them, bit 0 is OF.</summary>
    public ulong HostFlags;
    /// <summary>Where emitted code is entered.</summary>
    public ulong Target;
    /// <summary>Address of the <see cref="ExitRecord"/> that belongs to the last exit.</summary>
    public ExitRecord* Exit;
    /// <summary>Which <see cref="TranslatedExit"/> it was.</summary>
    public uint ExitKind;
    /// <summary>1 while guest vector registers and MXCSR are in the host's, else 0.</summary>
    public uint SimdLoaded;
    /// <summary>1 while the guest's x87 state is in the host's, else 0.</summary>
    public uint X87Loaded;
    /// <summary>
    /// The last x87 instruction in translated code that is no control instruction, and the last one with a memory operand; null: none since x87 state was
    /// loaded.
    /// </summary>
    public ExitRecord* X87Last, X87LastMemory;
    /// <summary>Linear address of that operand.</summary>
    public ulong X87Address;
    /// <summary>FOP with what follows, FIP and FDP of the guest while the host's registers have its x87 state.</summary>
    public ulong X87Opcode, X87InstructionPointer, X87DataPointer;
    /// <summary>First and last byte of the access that missed.</summary>
    public ulong MissAddress, MissLast;
    /// <summary>Scratch words of emitted code, good within one instruction.</summary>
    public ulong Temporary0, Temporary1, Temporary2, Temporary3;
    /// <summary>What <see cref="FlagsPlan"/> keeps, good within a translation.</summary>
    public ulong KeptFlags, KeptFirst, KeptSecond;

    /// <summary>Groups of accesses that a block may have, and their addends, good within a block.</summary>
    public const int MostGroups = 16;
    public fixed ulong GroupAddends[MostGroups];

    /// <summary>
    /// <see cref="AllQuiet"/> while nothing wants attention, else 0: who sets <see cref="ProcessorState.AttentionFlags"/> clears this behind it. Emitted code
    /// looks at it where zero is better for something rare.
    /// </summary>
    public ulong Quiet;
    /// <summary>The bits of RSP that are zero at the lowest place of a return stack, so that one PEXT looks for both.</summary>
    public const ulong AllQuiet = 0xFFFF;

    /// <summary>RSP of the caller of emitted code.</summary>
    public ulong HostStack;
    /// <summary>RSP of emitted code where it is entered, and where it was left: a place in the return stack of <see cref="ReturnTable"/>.</summary>
    public ulong ReturnStack;
    /// <summary>The mode of that return stack, by its number in the jump caches.</summary>
    public uint ReturnTable;
    /// <summary>The other modes' places, see <see cref="X86.ReturnStacks"/>.</summary>
    public fixed ulong ReturnStacks[TargetModes];

    /// <summary>Changes with STAR, LSTAR, FMASK and EFER.SCE, which SYSCALL and SYSRET are emitted with.</summary>
    public uint SystemCalls;
    /// <summary>The same for SYSRET; another value while software is to hear of each return to the program.</summary>
    public uint SystemReturns;
    /// <summary>SYSRETs that emitted code has executed; wraps around.</summary>
    public uint Returns;
    /// <summary>The predictions that hold something: address of the first, or 0.</summary>
    public ulong Predictions;

    /// <summary>Entries of one first-level table.</summary>
    public const int FirstLevelBits = 9, FirstLevelSize = 1 << FirstLevelBits;
    /// <summary>Tables of one privilege: tags for reading (<see cref="TagOf"/>), host minus linear addresses, the same for writing.</summary>
    public const int ReadTag = 0, ReadAddend = FirstLevelSize * 8, WriteTag = 2 * FirstLevelSize * 8, WriteAddend = 3 * FirstLevelSize * 8,
        TableSize = 4 * FirstLevelSize * 8;
    /// <summary>For user mode, for supervisor mode, and for supervisor mode with RFLAGS.AC set.</summary>
    public const int Levels = 3;
    /// <summary>The same once more for guest mode, so that a guest's entry and exit leave both halves as they are.</summary>
    public const int Privileges = 2 * Levels;

    /// <summary>Which of them code of <paramref name="mode"/> uses.</summary>
    public static int PrivilegeOf(uint mode) =>
        (ModeKey.Cpl(mode) == 3 ? 0 : (mode & ModeKey.SmapOverride) != 0 ? 2 : 1) + ((mode & ModeKey.Guest) != 0 ? Levels : 0);

    public fixed byte FirstLevel[Privileges * TableSize];
    /// <summary>
    /// The tag of entry <paramref name="n"/> when it holds nothing: of a page that this entry never holds, nor the page before it, where an access may begin.
    /// </summary>
    public static ulong EmptyTag(int n) => TagOf((ulong)(n + FirstLevelSize / 2 & (FirstLevelSize - 1)) << 12);

    /// <summary>The tag of the page at a linear address, a multiple of 4096: its negative.</summary>
    public static ulong TagOf(ulong page) => 0 - page;

    /// <summary>Number of the entry that a linear address has.</summary>
    public static int EntryOf(ulong address) => (int)(address >> 12) & (FirstLevelSize - 1);

    /// <summary>
    /// Number of the mapping (linear page, backing page) in force for code of user and of supervisor mode, and of both in guest mode, by linear page; 0:
    /// unknown.
    /// </summary>
    public const int MappingBits = 10, MappingSize = 1 << MappingBits, MappingTables = 4;
    public fixed uint Mappings[MappingTables * MappingSize];

    /// <summary>Which of them code of <paramref name="mode"/> uses.</summary>
    public static int MappingTableOf(uint mode) => (ModeKey.Cpl(mode) == 3 ? 0 : 1) + ((mode & ModeKey.Guest) != 0 ? 2 : 0);

    /// <summary>Jump cache of translated code, one for each of the modes in use: negated RIP, and where its translation begins.</summary>
    public const int TargetBits = 14, TargetSize = 1 << TargetBits, TargetModes = 32, TargetTableSize = 2 * TargetSize * 8;
    public fixed byte Targets[TargetModes * TargetTableSize];
    /// <summary>Never the negative of a canonical address.</summary>
    public const ulong EmptyTarget = 1ul << 62;
}

/// <summary>Why translated code came back.</summary>
internal enum TranslatedExit : uint
{
    /// <summary>The interpreter executes operation <see cref="ExitRecord.Number"/>.</summary>
    Operation,
    /// <summary>The block ended; execution goes on at the target of link <see cref="ExitRecord.Number"/>, which may be tied.</summary>
    Link,
    /// <summary>As Link, but something wants attention first.</summary>
    Attention,
    /// <summary>The block must be looked up again: its code, or its mapping, has changed.</summary>
    Lookup,
    /// <summary>
    /// Operation <see cref="ExitRecord.Number"/> reads (writes) at <see cref="TranslatorState.MissAddress"/>, for which there is no entry. The five bytes
    /// in front of the record lead back to the check.
    /// </summary>
    ReadMiss, WriteMiss,
    /// <summary>
    /// Operation <see cref="ExitRecord.Number"/> is a RET that has been executed, to an address for which there is no translation: it is taken back, and the
    /// interpreter executes it.
    /// </summary>
    Return,
    /// <summary>As Operation, and a prediction of the block has failed often.</summary>
    Predictions,
    /// <summary>
    /// As Operation, and the page at <see cref="TranslatorState.MissAddress"/> has not the addend that <see cref="PagePrediction"/>
    /// <see cref="TranslatorState.MissLast"/> expects.
    /// </summary>
    Mirror,
}

/// <summary>
/// The page that an access of a loop used last, below 2 GiB like the processor state. It holds nothing that the first-level TLB does not, and is dropped with
/// it.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct PagePrediction
{
    /// <summary>
    /// Negative of the page's number, shifted left by the binary logarithm of the operand's size, so that it matches an address whose lowest bits are zero
    /// only; or <see cref="Empty"/>.
    /// </summary>
    public ulong Tag;
    /// <summary>Host minus linear address.</summary>
    public ulong Addend;
    /// <summary>Address of the next one that holds something, or 0.</summary>
    public ulong Next;
    /// <summary>Where the addend alone is predicted: its negative.</summary>
    public ulong NegatedAddend
    {
        readonly get => Tag;
        set => Tag = value;
    }

    /// <summary>How often it may still fail until <see cref="TranslatedExit.Predictions"/>.</summary>
    public ulong Budget;

    /// <summary>Never the negative of a page number.</summary>
    public const ulong Empty = 1;
}

/// <summary>Lies in emitted code behind the call that leaves it.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
internal unsafe struct ExitRecord
{
    public TranslatedBlock* Block;
    public int Number;
}

/// <summary>A direct jump between translations.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct TranslationLink
{
    /// <summary>The jump's 32-bit relative operand.</summary>
    public byte* Site;
    /// <summary>RIP of the target.</summary>
    public ulong Rip;
    public TranslatedBlock* From;
    /// <summary>Where the jump leads while it is not tied.</summary>
    public byte* Stub;
    /// <summary>What it is tied to; null: nothing.</summary>
    public TranslatedBlock* Target;
    /// <summary>Other links that are tied to <see cref="Target"/>.</summary>
    public TranslationLink* NextOfTarget, PreviousOfTarget;
    /// <summary>Mode of the target.</summary>
    public uint Mode;
    /// <summary>Where a call comes back to, which may have changed the mapping of the page.</summary>
    public bool IsReturn;
    /// <summary>The target is the same wherever the block lies.</summary>
    public bool IsAbsolute;
}

/// <summary>A place in emitted code that changes with the linear address for which it is.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct BlockRelocation
{
    /// <summary>From <see cref="TranslatedBlock.Main"/>.</summary>
    public int Distance;
    /// <inheritdoc cref="Relocation.Table"/>
    public int Table;
    public RelocationKind Kind;
}

/// <summary>
/// Host code for one block at one linear address, and for blocks that are executed behind it, which are its parts. It is the first of them; each of the others
/// has such a record of its own for what is left and entered in the middle.
/// </summary>
/// <remarks>
/// Invariant: lives as long as the generation that was filled when it was made. <see cref="Operations"/> points into the arena of that or another one; while
/// <see cref="IsGivenUp"/> is false the block is there. When the block is given up first nothing enters the translation any more; when the translation is, the
/// block's list is rid of it.
/// </remarks>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct TranslatedBlock
{
    /// <summary>The block's first operation behind the counting one.</summary>
    public Insn* Operations;
    /// <summary>The first of the parts to which this belongs, and the next of them.</summary>
    public TranslatedBlock* Head, NextPart;
    /// <summary>A part behind the first: of which block it is made, and that block's next part; null: the translation was given up.</summary>
    public Block* Block;
    /// <inheritdoc cref="Block"/>
    public TranslatedBlock* NextOfBlock;
    /// <summary>RIP for which it is; equal to the linear address, since CS is flat. <see cref="TranslationMover"/> changes it.</summary>
    public ulong Rip;
    /// <summary>Entry that trusts the mapping of the page; of a part behind the first, for what goes on there.</summary>
    public byte* Main;
    /// <summary>
    /// Code that asks for a new look-up; what <see cref="Main"/> is replaced by when the block is given up; null: nothing comes from outside to this part.
    /// </summary>
    public byte* Stale;
    /// <summary>
    /// For each operation the distance from <see cref="Main"/> to where execution goes on after it; 0: not inside this translation;
    /// negative: nor there, since the check of a group was not made (<see cref="AfterGroupHead"/>).
    /// </summary>
    public int* Resume;

    /// <summary>Bytes of a part behind the first.</summary>
    public static readonly int PartSize = OffsetOfLinks();

    private static int OffsetOfLinks()
    {
        TranslatedBlock t;
        return (int)((byte*)&t.Links - (byte*)&t);
    }

    /// <param name="reads">The group is checked for writing though this access reads: the page must not become dirty by it.</param>
    /// <param name="stack">RSP is its register.</param>
    public static int AfterGroupHead(bool reads, bool stack) => ~((reads ? 1 : 0) | (stack ? 2 : 0));

    /// <summary>What was given to <see cref="AfterGroupHead"/>.</summary>
    public static bool IsReadingHead(int resume) => resume < 0 && (~resume & 1) != 0;

    /// <inheritdoc cref="IsReadingHead"/>
    public static bool IsStackHead(int resume) => resume < 0 && (~resume & 2) != 0;

    /// <summary>Host address of the code page.</summary>
    public byte* Page;
    public uint Mode;
    /// <summary>See <see cref="TranslatorState.Mappings"/>: the offset of the entry in the state, and what it must hold.</summary>
    public int MappingSlot;
    public uint Mapping;
    /// <summary>The same for the page into which the block's only instruction reaches; null: there is none.</summary>
    public byte* SecondPage;
    public int SecondMappingSlot;
    public uint SecondMapping;
    /// <summary>Which jump cache the mode has.</summary>
    public int TargetTable;
    public bool UsesSimd;
    public bool UsesX87;
    /// <summary>The generations in which it and its block lie.</summary>
    public byte Generation, BlockGeneration;
    // What comes now is there once, in the first part.
    /// <summary>Direct jumps of all parts.</summary>
    public TranslationLink* Links;
    public int LinkCount;
    /// <summary>Links that are tied to this, the first of them.</summary>
    public TranslationLink* Incoming;
    /// <summary>Another translation of the same generation.</summary>
    public TranslatedBlock* NextOfGeneration;
    /// <summary>Entry that checks the mapping of the page.</summary>
    public byte* Checked;
    /// <summary>Where a loop with exchanged registers goes on, and what that is replaced by; null: there is none.</summary>
    public byte* Loop, LoopStale;
    /// <summary>The same block at another address.</summary>
    public TranslatedBlock* Next;
    /// <summary>Nothing may enter it, or any of its parts, any more.</summary>
    public bool IsGivenUp;
    /// <summary>It is for this address and no other.</summary>
    public bool IsFixed;
    /// <summary>It is being moved to another address, together with others of its page.</summary>
    public bool IsMoving;
    /// <summary>What changes with the address.</summary>
    public BlockRelocation* Relocations;
    public int RelocationCount;
    /// <summary>Where its code lies.</summary>
    public byte* Hot, Cold;
    public int HotLength, ColdLength;
    /// <summary>How often the check of a group of accesses failed since <see cref="ProcessorState.Retired"/> was <see cref="GroupsSince"/>.</summary>
    public int GroupFailures;
    public ulong GroupsSince;
    public PagePrediction* Predictions;
    public int PredictionCount;
    /// <summary><see cref="ProcessorState.Retired"/> when the budgets were filled.</summary>
    public ulong PredictionsSince;
    /// <summary>What failures of predicted addends may still cost.</summary>
    public int MirrorBudget;
}
