using Bunraku.Platform;
using Iced.Intel;
using static Iced.Intel.Register;
using HostRegister = Iced.Intel.Register;

namespace Bunraku.Processor.X86;

/// <summary>
/// The hand-written part of the code cache, at its beginning: constants, entry, exits, and what a miss of the first-level TLB does. Emitted once for a
/// vCPU. Emitted code calls nothing outside the cache.
/// </summary>
internal sealed unsafe class TranslatorRuntime
{
    /// <summary>MXCSR[12:7]: all SIMD floating-point exceptions masked.</summary>
    private const uint MxcsrMasks = (uint)X86.Mxcsr.Masks;

    private readonly HostAssembler _a;
    private readonly Dictionary<ulong, ulong> _constants = [];

    private readonly ulong[] _entries = new ulong[4];
    /// <summary>Called from translated code with an <see cref="ExitRecord"/> behind the call; indexed by <see cref="TranslatedExit"/>.</summary>
    public readonly ulong[] Exits = new ulong[Enum.GetValues<TranslatedExit>().Length];
    /// <summary>Called, with a jump of 5 bytes and an <see cref="ExitRecord"/> behind the call, when vector registers must be loaded.</summary>
    public readonly ulong LoadSimd;
    /// <summary>The same for x87 state.</summary>
    public readonly ulong LoadX87;
    /// <summary>
    /// Called the same way with the operand's first byte in <see cref="HostRegisters.Address"/> and its last in <see cref="HostRegisters.Addend"/>: fills the
    /// first level and returns, or exits. Indexed by privilege, twice: reading, writing.
    /// </summary>
    public readonly ulong[] Misses = new ulong[2 * TranslatorState.Privileges];

    /// <summary>
    /// Called, with a jump of 5 bytes and an <see cref="ExitRecord"/> behind the call, when the mapping of a block's page is not known to be in force: looks
    /// into the software TLB and returns, or exits for a look-up.
    /// </summary>
    public readonly ulong MappingMiss;

    private readonly ulong _constantsStart, _commonExit;

    /// <summary>Where each routine begins, and its name.</summary>
    public IEnumerable<(ulong Start, string Name)> Routines
    {
        get
        {
            yield return (_constantsStart, "constants");
            yield return (_commonExit, "exit");
            foreach (TranslatedExit kind in Enum.GetValues<TranslatedExit>()) yield return (Exits[(int)kind], $"exit-{kind}");
            yield return (LoadSimd, "load-vectors");
            yield return (LoadX87, "load-x87");
            for (int n = 0; n < Misses.Length; n++)
                yield return (Misses[n], $"{((n & 1) == 0 ? "read" : "write")}-miss-{NameOf(n >> 1)}");
            yield return (MappingMiss, "mapping-miss");
            for (int table = 0; table < TranslatorState.TargetModes; table++)
            {
                yield return (EmptyReturns[table], $"empty-return-{table}");
                yield return (OtherReturns[table], $"other-return-{table}");
            }
            foreach (ulong entry in _entries) yield return (entry, "enter");
        }
    }

    private static string NameOf(int privilege) => (privilege >= TranslatorState.Levels ? "nested-" : "")
        + (privilege % TranslatorState.Levels) switch { 0 => "user", 1 => "supervisor", _ => "supervisor-ac" };

    /// <summary>
    /// Where a RET goes on whose target, in <see cref="HostRegisters.Address"/>, is not what its place in the return stack expects: looks into the jump cache.
    /// The address of the RET's exit for the interpreter is in <see cref="HostRegisters.Addend"/>. Indexed by number of the jump cache.
    /// </summary>
    public readonly ulong[] OtherReturns = new ulong[TranslatorState.TargetModes];
    /// <summary>The same for a RET on an empty stack.</summary>
    public readonly ulong[] EmptyReturns = new ulong[TranslatorState.TargetModes];

    /// <summary>
    /// Enters at <see cref="TranslatorState.Target"/>, with vector registers and x87 state loaded where asked for, and returns at the next exit.
    /// </summary>
    public void Enter(bool vectors, bool x87) => ((delegate* unmanaged<void>)_entries[(vectors ? 1 : 0) + (x87 ? 2 : 0)])();

    /// <param name="targets">Entries of a mode's jump cache, a power of two.</param>
    public TranslatorRuntime(ExecutablePart memory, ProcessorState* state, int targets)
    {
        TargetMask = (ulong)(targets - 1) << 2;
        _a = new HostAssembler(state);
        _a.Begin((ulong)memory.Next);
        _constantsStart = _a.Here;
        foreach (ulong constant in (ulong[])[IndexMask, OffsetMask, PageMask, PageMask | 1, PageMask | 3, PageMask | 7, PageMask | 15, PageMask | 31,
            PageMask | 63, TargetMask, 1, 3, 7, 15, 31, 63, MxcsrMasks, Simd.DefaultMxcsr, X87Masks, X87.Summary, (ulong)Rflags.If,
            (ulong)Rflags.Ac, (ulong)Cr4.Tsd, TranslatorState.AllQuiet, (ulong)Cr4.Pke, UpperHalf, RefusedByReturn])
        {
            if (_constants.TryAdd(constant, _a.Here)) _a.Int64(constant);
        }
        ulong common = _commonExit = EmitCommonExit();
        var afterJump = new ulong[Exits.Length];
        foreach (TranslatedExit kind in Enum.GetValues<TranslatedExit>())
        {
            if (kind is TranslatedExit.Operation or TranslatedExit.ReadMiss or TranslatedExit.WriteMiss)
            {
                // Behind the return address is a jump back before the record.
                afterJump[(int)kind] = _a.Here;
                _a.Pop(Host.Rcx);
                _a.Lea(Host.Rcx, Host.Rcx, JumpLength);
                _a.Bytes(0xEB, 1); // over the POP below, which is one byte
            }
            Exits[(int)kind] = _a.Here;
            // A RET has its record at hand.
            if (kind != TranslatedExit.Return) _a.Pop(Host.Rcx);
            _a.StoreState(StateOffsets.Exit, Host.Rcx);
            _a.StoreStateImmediate(StateOffsets.ExitKind, (int)kind, wide: false);
            _a.Jump(common);
        }
        LoadSimd = EmitLoadVectors(afterJump[(int)TranslatedExit.Operation]);
        LoadX87 = EmitLoadX87(afterJump[(int)TranslatedExit.Operation]);
        for (int privilege = 0; privilege < TranslatorState.Privileges; privilege++)
        {
            Misses[2 * privilege] = EmitMiss(privilege, write: false, afterJump[(int)TranslatedExit.ReadMiss]);
            Misses[2 * privilege + 1] = EmitMiss(privilege, write: true, afterJump[(int)TranslatedExit.WriteMiss]);
        }
        MappingMiss = EmitMappingMiss();
        for (int table = 0; table < TranslatorState.TargetModes; table++)
        {
            EmptyReturns[table] = _a.Here;
            _a.Lea(Host.Rsp, Host.Rsp, -sizeof(ulong));
            OtherReturns[table] = EmitOtherReturn(table);
        }
        for (int n = 0; n < _entries.Length; n++) _entries[n] = EmitEnter(vectors: (n & 1) != 0, x87: (n & 2) != 0);
        if (memory.Append(_a.Code) == null) throw new InvalidOperationException("the code cache is too small for its own runtime");
    }

    /// <summary>Bytes of the jump between a call and its record.</summary>
    public const int JumpLength = 5;
    /// <summary>Bytes of a call in front of its record.</summary>
    private const int CallLength = 5;

    /// <summary>Bits of a linear address that choose a first-level entry, and those that are compared.</summary>
    public const ulong IndexMask = (TranslatorState.FirstLevelSize - 1ul) << 12, PageMask = ~0xFFFul;
    /// <summary>Bits of RIP that choose an entry of the jump cache: above the lowest, which entries of functions do not use.</summary>
    public readonly ulong TargetMask;
    /// <summary>Bits of an address within its page.</summary>
    public const ulong OffsetMask = 0xFFF;
    /// <summary>Bits that are zero in user addresses: canonical for certain, whatever the width.</summary>
    public const ulong UpperHalf = ~0ul << 47;
    /// <summary>Flags with which SYSRET changes more than emitted code does.</summary>
    public const ulong RefusedByReturn = (ulong)(Rflags.Tf | Rflags.Df | Rflags.Ac);
    /// <summary>FCW[5:0]: all x87 exceptions masked.</summary>
    public const ulong X87Masks = 0x3F;

    /// <summary>Where a constant of 8 bytes lies.</summary>
    public ulong Constant(ulong value) => _constants[value];

    private ulong EmitEnter(bool vectors, bool x87)
    {
        ulong start = _a.Here;
        foreach (Host saved in (ReadOnlySpan<Host>)[Host.Rbx, Host.Rbp, Host.R12, Host.R13, Host.R14, Host.R15]) _a.Push(saved);
        _a.StoreState(StateOffsets.HostStack, Host.Rsp);
        _a.LoadState(Host.Rsp, StateOffsets.ReturnStack);
        if (vectors) LoadVectorRegisters();
        if (x87) LoadX87State();
        LoadFlags();
        foreach ((int guest, Host host) in HostRegisters.Mapped) _a.LoadState(host, StateOffsets.Gpr(guest));
        _a.LoadState(HostRegisters.Retired, StateOffsets.Retired);
        _a.JumpState(StateOffsets.Target);
        return start;
    }

    /// <summary>Host flags from <see cref="TranslatorState.HostFlags"/>; RAX is lost.</summary>
    private void LoadFlags()
    {
        _a.LoadState(Host.Rax, StateOffsets.HostFlags);
        _a.FlagsFromAx();
    }

    private ulong EmitCommonExit()
    {
        ulong start = _a.Here;
        foreach ((int guest, Host host) in HostRegisters.Mapped) _a.StoreState(StateOffsets.Gpr(guest), host);
        _a.StoreState(StateOffsets.Retired, HostRegisters.Retired);
        _a.FlagsToAx();
        _a.StoreState(StateOffsets.HostFlags, Host.Rax);
        var noVectors = new HostLabel();
        _a.LoadState(Host.Rcx, StateOffsets.SimdLoaded, wide: false);
        _a.Bytes(0x85, 0xC9); // TEST ECX, ECX
        _a.JumpIf(4 /* E */, noVectors);
        for (int n = 0; n < 16; n++) VectorMove(0x11, n);
        Mxcsr(3, StateOffsets.Mxcsr);
        HostDefaultMxcsr();
        _a.Bytes(0xC5, 0xF8, 0x77); // VZEROUPPER
        _a.StoreStateImmediate(StateOffsets.SimdLoaded, 0, wide: false);
        _a.Place(noVectors);
        var noX87 = new HostLabel();
        _a.LoadState(Host.Rcx, StateOffsets.X87Loaded, wide: false);
        _a.Bytes(0x85, 0xC9);
        _a.JumpIf(4 /* E */, noX87);
        SaveX87State();
        _a.Place(noX87);
        _a.StoreState(StateOffsets.ReturnStack, Host.Rsp);
        _a.LoadState(Host.Rsp, StateOffsets.HostStack);
        foreach (Host saved in (ReadOnlySpan<Host>)[Host.R15, Host.R14, Host.R13, Host.R12, Host.Rbp, Host.Rbx]) _a.Pop(saved);
        _a.Bytes(0xC3);
        return start;
    }

    /// <summary>VMOVUPS of YMM <paramref name="n"/> from (10h) or to (11h) its place in the state.</summary>
    private void VectorMove(byte opcode, int n)
    {
        _a.Bytes(0xC5, (byte)(n < 8 ? 0xFC : 0x7C), opcode, (byte)(4 | (n & 7) << 3), 0x25);
        _a.StateAddress(StateOffsets.Simd + 32 * n);
    }

    /// <summary>LDMXCSR (2) or STMXCSR (3).</summary>
    private void Mxcsr(int operation, int offset)
    {
        _a.Bytes(0x0F, 0xAE, (byte)(4 | operation << 3), 0x25);
        _a.StateAddress(offset);
    }

    /// <summary>MXCSR as .NET's own code expects it.</summary>
    private void HostDefaultMxcsr()
    {
        _a.Bytes(0x0F, 0xAE, 0x15); // LDMXCSR [RIP + …]
        _a.Int32((int)((long)Constant(Simd.DefaultMxcsr) - (long)(_a.Here + 4)));
    }

    private void LoadVectorRegisters()
    {
        Mxcsr(2, StateOffsets.Mxcsr);
        for (int n = 0; n < 16; n++) VectorMove(0x10, n);
        _a.StoreStateImmediate(StateOffsets.SimdLoaded, 1, wide: false);
    }

    private ulong EmitLoadVectors(ulong fail)
    {
        ulong start = _a.Here;
        var masked = new HostLabel();
        // An unmasked exception needs the instruction to be abandoned: the interpreter does that.
        _a.LoadState(Host.Rcx, StateOffsets.Mxcsr, wide: false);
        _a.Pext(Host.Rcx, Host.Rcx, Constant(MxcsrMasks));
        _a.Lea(Host.Rcx, Host.Rcx, -0x3F);
        _a.JumpIfRcxZero(masked);
        _a.Jump(fail);
        _a.Place(masked);
        LoadVectorRegisters();
        _a.Bytes(0xC3);
        return start;
    }

    private ulong EmitLoadX87(ulong fail)
    {
        ulong start = _a.Here;
        var masked = new HostLabel();
        var quiet = new HostLabel();
        // With an exception unmasked or pending the interpreter must look at each instruction.
        _a.LoadStateByte(Host.Rcx, StateOffsets.Fxsave + X87.ControlOffset);
        _a.Pext(Host.Rcx, Host.Rcx, Constant(X87Masks));
        _a.Lea(Host.Rcx, Host.Rcx, -(int)X87Masks);
        _a.JumpIfRcxZero(masked);
        _a.Jump(fail);
        _a.Place(masked);
        _a.LoadStateByte(Host.Rcx, StateOffsets.Fxsave + X87.StatusOffset);
        _a.Pext(Host.Rcx, Host.Rcx, Constant(X87.Summary));
        _a.JumpIfRcxZero(quiet);
        _a.Jump(fail);
        _a.Place(quiet);
        _a.StoreState(StateOffsets.Temporary2, Host.Rax);
        _a.StoreState(StateOffsets.Temporary3, Host.Rdx);
        LoadX87State();
        _a.LoadState(Host.Rax, StateOffsets.Temporary2);
        _a.LoadState(Host.Rdx, StateOffsets.Temporary3);
        _a.Bytes(0xC3);
        return start;
    }

    /// <summary>RAX, RCX and RDX are lost.</summary>
    private void LoadX87State()
    {
        // The host's pointers take the places of the guest's.
        CopyState(StateOffsets.X87Opcode, StateOffsets.Fxsave + X87.OpcodeOffset);
        CopyState(StateOffsets.X87InstructionPointer, StateOffsets.Fxsave + X87.InstructionPointerOffset);
        CopyState(StateOffsets.X87DataPointer, StateOffsets.Fxsave + X87.DataPointerOffset);
        _a.StoreStateImmediate(StateOffsets.XsaveHeader, 1, wide: true); // XSTATE_BV: x87 state is there
        X87Area(5);
        _a.StoreStateImmediate(StateOffsets.X87Loaded, 1, wide: false);
    }

    /// <summary>RAX, RCX and RDX are lost.</summary>
    private void SaveX87State()
    {
        X87Area(4);
        _a.Bytes(0xDB, 0xE3); // FNINIT
        CopyState(StateOffsets.Fxsave + X87.OpcodeOffset, StateOffsets.X87Opcode); // and what the next one corrects
        CopyState(StateOffsets.Fxsave + X87.InstructionPointerOffset, StateOffsets.X87InstructionPointer);
        CopyState(StateOffsets.Fxsave + X87.DataPointerOffset, StateOffsets.X87DataPointer);
        _a.StoreStateImmediate(StateOffsets.X87Loaded, 0, wide: false);
    }

    private void CopyState(int to, int from)
    {
        _a.LoadState(Host.Rcx, from);
        _a.StoreState(to, Host.Rcx);
    }

    /// <summary>XSAVE64 (4) or XRSTOR64 (5) of x87 state alone.</summary>
    private void X87Area(int operation)
    {
        _a.MoveImmediate(Host.Rax, 1);
        _a.MoveImmediate(Host.Rdx, 0);
        _a.Bytes(0x48, 0x0F, 0xAE, (byte)(4 | operation << 3), 0x25);
        _a.StateAddress(StateOffsets.Fxsave);
    }

    private ulong EmitMiss(int privilege, bool write, ulong fail)
    {
        int table = StateOffsets.FirstLevel + privilege * TranslatorState.TableSize;
        ulong start = _a.Here;
        var no = new HostLabel();
        const HostRegister address = R13, last = R14;
        SaveFlags();
        // An access across pages has no entry.
        Add(Instruction.Create(Code.Mov_r64_rm64, RCX, last));
        Add(Instruction.Create(Code.Xor_r64_rm64, RCX, address));
        Add(Instruction.Create(Code.Test_rm64_imm32, RCX, unchecked((int)PageMask)));
        _a.JumpIf(5 /* NE */, no);
        FindTlbEntry(address, write ? StateOffsets.TlbWriteTag : StateOffsets.TlbReadTag, no);
        Add(Instruction.Create(Code.Mov_r64_rm64, RCX, _a.State(StateOffsets.Tlb + StateOffsets.TlbAddend, RCX)));
        Add(Instruction.Create(Code.Mov_r64_rm64, RAX, address));
        Add(Instruction.Create(Code.Mov_r64_rm64, last, RAX));
        Add(Instruction.Create(Code.And_rm64_imm32, last, unchecked((int)PageMask)));
        Add(Instruction.Create(Code.Neg_rm64, last));
        Add(Instruction.Create(Code.Shr_rm64_imm8, RAX, 12));
        Add(Instruction.Create(Code.And_rm32_imm32, EAX, TranslatorState.FirstLevelSize - 1));
        _a.StoreTable(table + (write ? TranslatorState.WriteTag : TranslatorState.ReadTag), Host.Rax, Host.R14);
        _a.StoreTable(table + (write ? TranslatorState.WriteAddend : TranslatorState.ReadAddend), Host.Rax, Host.Rcx);
        RestoreFlags();
        _a.Bytes(0xC3);
        _a.Place(no);
        RestoreFlags();
        _a.StoreState(StateOffsets.MissAddress, HostRegisters.Address);
        _a.StoreState(StateOffsets.MissLast, HostRegisters.Addend);
        _a.Jump(fail);
        return start;
    }

    /// <summary>
    /// The offset of an address' entry in the software TLB goes to RCX (see <see cref="Access.Entry"/>); where the tag is another one, execution goes on at
    /// <paramref name="no"/>. RAX is lost.
    /// </summary>
    private void FindTlbEntry(HostRegister address, int tag, HostLabel no)
    {
        Add(Instruction.Create(Code.Mov_r64_rm64, RCX, address));
        Add(Instruction.Create(Code.Shr_rm64_imm8, RCX, 7));
        Add(Instruction.Create(Code.And_rm32_imm32, ECX, (ProcessorState.TlbSize - 1) << 5));
        Add(Instruction.Create(Code.Mov_r64_rm64, RAX, address));
        Add(Instruction.Create(Code.And_rm64_imm32, RAX, unchecked((int)PageMask)));
        Add(Instruction.Create(Code.Or_r64_rm64, RAX, _a.State(StateOffsets.TlbContext)));
        Add(Instruction.Create(Code.Cmp_r64_rm64, RAX, _a.State(StateOffsets.Tlb + tag, RCX)));
        _a.JumpIf(5 /* NE */, no);
    }

    private ulong EmitOtherReturn(int table)
    {
        ulong start = _a.Here;
        HostLabel hit = new(), exit = new();
        int targets = StateOffsets.Targets + table * TranslatorState.TargetTableSize;
        _a.StoreState(StateOffsets.Temporary0, HostRegisters.Addend);
        _a.Pext(HostRegisters.Addend, HostRegisters.Address, Constant(TargetMask));
        _a.LoadTable(Host.Rcx, HostRegisters.Addend, targets);
        _a.Lea(Host.Rcx, Host.Rcx, HostRegisters.Address, 0, 0);
        _a.JumpIfRcxZero(hit);
        _a.Place(exit);
        _a.LoadState(Host.Rcx, StateOffsets.Temporary0);
        _a.Lea(Host.Rcx, Host.Rcx, CallLength);
        _a.Jump(Exits[(int)TranslatedExit.Return]);
        _a.Place(hit);
        // Returns can make a loop without any call.
        _a.LoadState(Host.Rcx, StateOffsets.Quiet);
        _a.JumpIfRcxZero(exit);
        _a.JumpTable(HostRegisters.Addend, Branching.TargetCodeOf(table));
        return start;
    }

    private ulong EmitMappingMiss()
    {
        ulong start = _a.Here;
        var no = new HostLabel();
        SaveFlags();
        Add(Instruction.Create(Code.Mov_r64_rm64, RCX, new MemoryOperand(RSP)));
        Add(Instruction.Create(Code.Mov_r64_rm64, R14, new MemoryOperand(RCX, JumpLength))); // the translation, behind the jump
        Add(Instruction.Create(Code.Mov_r64_rm64, R13, Field(nameof(TranslatedBlock.Rip))));
        FindTlbEntry(R13, StateOffsets.TlbExecTag, no);
        Add(Instruction.Create(Code.And_rm64_imm32, R13, unchecked((int)PageMask)));
        Add(Instruction.Create(Code.Add_r64_rm64, R13, _a.State(StateOffsets.Tlb + StateOffsets.TlbAddend, RCX)));
        Add(Instruction.Create(Code.Cmp_r64_rm64, R13, Field(nameof(TranslatedBlock.Page))));
        _a.JumpIf(5 /* NE */, no);
        Add(Instruction.Create(Code.Mov_r32_rm32, ECX, Field(nameof(TranslatedBlock.MappingSlot))));
        Add(Instruction.Create(Code.Mov_r32_rm32, EAX, Field(nameof(TranslatedBlock.Mapping))));
        Add(Instruction.Create(Code.Mov_rm32_r32, _a.State(0, RCX), EAX));
        RestoreFlags();
        _a.Bytes(0xC3);
        _a.Place(no);
        RestoreFlags();
        _a.Pop(Host.Rcx);
        _a.Lea(Host.Rcx, Host.Rcx, JumpLength);
        _a.Push(Host.Rcx);
        _a.Jump(Exits[(int)TranslatedExit.Lookup]);
        return start;
    }

    private static MemoryOperand Field(string name) => new(R14, (int)System.Runtime.InteropServices.Marshal.OffsetOf<TranslatedBlock>(name));

    private void SaveFlags()
    {
        _a.StoreState(StateOffsets.Temporary2, Host.Rax);
        _a.FlagsToAx();
        _a.StoreState(StateOffsets.HostFlags, Host.Rax);
    }

    private void RestoreFlags()
    {
        LoadFlags();
        _a.LoadState(Host.Rax, StateOffsets.Temporary2);
    }

    private void Add(in Instruction instruction)
    {
        if (!_a.TryEncode(instruction)) throw new InvalidOperationException($"cannot encode {instruction}");
    }
}
