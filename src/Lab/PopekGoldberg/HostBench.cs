using Bunraku.Platform;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>
/// Executes probes on the host's own processor, in this process and so in user mode. For one thread at a time; faults of other threads go on to
/// the handlers that were there before.
/// </summary>
/// <remarks>Invariant: nothing but <see cref="_memory"/> is written by emitted code, and control comes back from wherever in it a fault is raised.</remarks>
internal sealed unsafe class HostBench : IDisposable
{
    private const int CodeSize = 0x2000, SlotsOffset = CodeSize, ScratchOffset = CodeSize + 0x1000, Total = ScratchOffset + 0x1000;
    /// <summary>Where the emitted code starts: entry, exit, handler, then the probe in its own page.</summary>
    private const int ProbeOffset = 0x1000;
    // Slots, in quadwords.
    private const int SavedStack = 0, SavedSegments = 1, FarTarget = 5, Record = 32;
    /// <summary>struct sigcontext of x86-64 from R8 to CR2; it lies at this offset in struct ucontext. Linux, arch/x86/include/uapi/asm/sigcontext.h.</summary>
    private const int ContextOffset = 40, ContextWords = 23, ContextRsp = 15, ContextRip = 16, ContextFlags = 17, ContextSegments = 18, ContextError = 19,
        ContextTrap = 20;
    /// <summary>Linux's selectors for programs. arch/x86/include/asm/segment.h.</summary>
    private const ushort Code64 = 0x33, Code32 = 0x23, Data = 0x2B, KernelData = 0x18;
    private const ulong FlagsBefore = 0x202;
    private const int BreakpointVector = 3;

    /// <summary>Numbers of RAX … R15 in the context.</summary>
    private static ReadOnlySpan<int> GprInContext => [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];

    private readonly LowMemory _memory = new(Total);

    private ulong Slot(int n) => (ulong)_memory.Pointer + SlotsOffset + (ulong)n * 8;
    private ulong Scratch => (ulong)_memory.Pointer + ScratchOffset;
    private ulong ProbeAddress => (ulong)_memory.Pointer + ProbeOffset;

    /// <summary>
    /// The host's system has Linux's 32-bit code segment for user mode. Systems without it, as some hypervisors' own kernels, trap a probe of 32 bits on its
    /// way there: that says nothing about its instruction.
    /// </summary>
    public bool Has32BitCode => Run(ProbeCatalog.Control with { Bitness = 32 }).IsCompleted;

    /// <summary>Executes <paramref name="probe"/> once.</summary>
    public Observation Run(Probe probe) => Run(probe, singleStep: false);

    /// <summary>
    /// Executes it with RFLAGS.TF set: true when the single-step trap came right behind it. A system that caught the instruction and answered
    /// in the processor's place goes on behind it without that trap.
    /// </summary>
    public bool SingleSteps(Probe probe) => Run(probe, singleStep: true).SingleStepped;

    private Observation Run(Probe probe, bool singleStep)
    {
        // POPF sets TF; the trap comes behind the instruction that follows it.
        byte[] instruction = [.. singleStep ? (byte[])[0x9D] : [], .. probe.Assemble()];
        ulong after = ProbeAddress + (ulong)instruction.Length;
        ushort code = probe.Bitness == 64 ? Code64 : Code32;
        var input = new ProbeInput(Scratch, after)
        {
            Code = code,
            Stack = Data,
            FarCode = code,
            UserData = Data,
            KernelData = KernelData,
            OtherGdt = Scratch,
            OtherIdt = Scratch,
            OtherRoot = 0x1000,
            WatchedPage = Scratch,
        };
        probe.Prepare?.Invoke(input);
        if (singleStep)
        {
            int size = probe.Bitness / 8;
            input[Gp.Rsp] -= (ulong)size;
            BitConverter.TryWriteBytes(input.Memory.AsSpan((int)(input[Gp.Rsp] - Scratch)), (uint)(FlagsBefore | SystemState.TrapFlag));
            input.Memory.AsSpan((int)(input[Gp.Rsp] - Scratch) + 4, size - 4).Clear();
        }
        input.Memory.CopyTo(new Span<byte>((void*)Scratch, ProbeInput.ScratchSize));
        (int entry, int handler) = Emit(input, probe.Bitness, instruction);
        byte* start = _memory.Pointer;
        FaultSignals.Call((delegate* unmanaged<void>)(start + entry), start + handler);
        return Result(input, after);
    }

    private Observation Result(ProbeInput input, ulong after)
    {
        ulong* context = (ulong*)Slot(Record);
        var gpr = new ulong[16];
        for (int n = 0; n < 16; n++) gpr[n] = context[GprInContext[n]];
        ulong flags = context[ContextFlags], segments = context[ContextSegments];
        // The code ends with a breakpoint of one byte.
        bool done = context[ContextTrap] == BreakpointVector && context[ContextRip] == after + 1;
        var before = new Dictionary<string, ulong>();
        SystemState.AddFlags(before, FlagsBefore);
        SystemState.AddCode(before, input.Code, input.Stack);
        var afterwards = new Dictionary<string, ulong>();
        SystemState.AddFlags(afterwards, flags);
        SystemState.AddCode(afterwards, (ushort)segments, (ushort)(segments >> 48));
        ReadOnlySpan<string> names = ["DS", "ES", "FS", "GS"];
        for (int n = 0; n < names.Length; n++)
            (before[names[n]], afterwards[names[n]]) = ((ushort)((ulong*)Slot(SavedSegments))[n], (ushort)context[ContextWords + n]);
        ulong mask = (flags ^ FlagsBefore) & SystemState.ArithmeticFlags;
        int vector = (int)context[ContextTrap];
        return new Observation(done ? Outcome.Completed : Outcome.Trapped)
        {
            Vector = done ? null : vector,
            SingleStepped = vector == SystemState.DebugVector && context[ContextRip] == after,
            ErrorCode = !done && vector is 8 or 10 or 11 or 12 or 13 or 14 or 17 or 21 ? (uint)context[ContextError] : null,
            GprBefore = input.Gpr,
            MemoryBefore = input.Memory,
            Gpr = gpr,
            Memory = new ReadOnlySpan<byte>((void*)Scratch, ProbeInput.ScratchSize).ToArray(),
            Flags = (mask, flags & mask),
            SystemBefore = before,
            SystemAfter = afterwards,
        };
    }

    /// <summary>Writes the code for one probe; returns the offsets of the entry and of the signal handler.</summary>
    private (int Entry, int Handler) Emit(ProbeInput input, int bitness, byte[] instruction)
    {
        byte* start = _memory.Pointer;
        var a = new Assembler(64);
        Label entry = a.CreateLabel(), exit = a.CreateLabel(), handler = a.CreateLabel();
        AssemblerRegister64[] registers = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        AssemblerRegister64[] saved = [rbx, rbp, r12, r13, r14, r15];
        AssemblerRegisterSegment[] segments = [ds, es, fs, gs];

        a.Label(ref entry);
        foreach (AssemblerRegister64 r in saved) a.push(r);
        a.mov(rcx, Slot(SavedStack));
        a.mov(__qword_ptr[rcx], rsp);
        for (int n = 0; n < segments.Length; n++)
        {
            a.mov(eax, segments[n]);
            a.mov(__qword_ptr[rcx + (SavedSegments - SavedStack + n) * 8], rax);
        }
        a.push((int)FlagsBefore);
        a.popfq();
        for (int n = 0; n < 16; n++) a.mov(registers[n], input.Gpr[n]);
        *(ulong*)Slot(FarTarget) = ProbeAddress | (ulong)Code32 << 32;
        if (bitness == 64) a.jmp(ProbeAddress);
        else a.jmp(__fword_ptr[(long)Slot(FarTarget)]);

        // The handler sends control here, with the stack of the entry.
        a.Label(ref exit);
        a.mov(rcx, Slot(SavedSegments));
        foreach (int n in (ReadOnlySpan<int>)[0, 1, 3]) // FS holds the thread's own data, and no probe loads it
        {
            a.mov(rax, __qword_ptr[rcx + n * 8]);
            a.mov(segments[n], eax);
        }
        foreach (AssemblerRegister64 r in saved.Reverse()) a.pop(r);
        a.ret();

        // void handler(int signal, siginfo_t *info, ucontext_t *context).
        a.Label(ref handler);
        a.lea(rsi, __[rdx + ContextOffset]);
        a.mov(rdi, Slot(Record));
        a.mov(ecx, ContextWords);
        a.rep.movsq();
        for (int n = 0; n < segments.Length; n++)
        {
            a.mov(eax, segments[n]);
            a.mov(__qword_ptr[rdi + n * 8], rax);
        }
        a.lea(rax, __[exit]);
        a.mov(__qword_ptr[rdx + ContextOffset + ContextRip * 8], rax);
        a.mov(rax, Slot(SavedStack));
        a.mov(rax, __qword_ptr[rax]);
        a.mov(__qword_ptr[rdx + ContextOffset + ContextRsp * 8], rax);
        a.mov(__qword_ptr[rdx + ContextOffset + ContextFlags * 8], (int)FlagsBefore);
        a.mov(__word_ptr[rdx + ContextOffset + ContextSegments * 8], Code64);
        a.mov(__word_ptr[rdx + ContextOffset + ContextSegments * 8 + 6], Data);
        a.ret();

        var writer = new ByteWriter();
        AssemblerResult result = a.Assemble(writer, (ulong)start, BlockEncoderOptions.ReturnNewInstructionOffsets);
        byte[] code = writer.ToArray();
        if (code.Length > ProbeOffset) throw new InvalidOperationException("the emitted code does not fit");
        _memory.Protect(CodeSize, executable: false);
        new Span<byte>(start, CodeSize).Fill(0xCC);
        code.CopyTo(new Span<byte>(start, ProbeOffset));
        instruction.CopyTo(new Span<byte>(start + ProbeOffset, CodeSize - ProbeOffset));
        _memory.Protect(CodeSize, executable: true);
        return ((int)(result.GetLabelRIP(entry) - (ulong)start), (int)(result.GetLabelRIP(handler) - (ulong)start));
    }

    public void Dispose() => _memory.Dispose();
}
