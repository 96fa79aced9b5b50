using System.ComponentModel;
using Bunraku.Engines;
using Bunraku.Platform;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Processor.X86;

/// <summary>How a few instructions that a helper runs are to come to a stop.</summary>
/// <param name="Failure">What is the matter with the host where they do not, in one line.</param>
/// <param name="Code">The instructions; a system call is behind them.</param>
/// <param name="Pointer">In RBX.</param>
/// <param name="Rip">Where RIP stands then, counted from the first instruction; null: anywhere.</param>
internal readonly record struct DirectTrial(string Failure, byte[] Code, ulong Pointer = 0, int? Rip = 0)
{
    /// <summary>si_code of the segmentation fault that it has to be, with <see cref="Address"/>; 0: any signal will do.</summary>
    public int FaultCode { get; init; }

    /// <summary>RIP stands at <see cref="Pointer"/>.</summary>
    public bool Jumps { get; init; }

    /// <summary>si_addr of the fault.</summary>
    public ulong Address { get; init; }

    /// <summary>The signal that it has to be; 0: any. Software looks what the matter was, but for traps that RIP is behind.</summary>
    public int Signal { get; init; }

    /// <summary>It came as it has to.</summary>
    /// <param name="start">Where the first instruction was.</param>
    public bool IsMet(TracedStop stop, int signal, int code, ulong address, ulong start, ulong rip) => stop == TracedStop.Signal
        && (Rip is not { } offset || rip == start + (ulong)offset) && (!Jumps || rip == Pointer) && (Signal == 0 || signal == Signal)
        && (FaultCode == 0 || (signal == SegmentationFault && code == FaultCode && address == Address));

    public const int SegmentationFault = 11;
}

/// <summary>
/// Tries out in a helper what direct execution counts on. That a host takes each request says little: beneath hypervisors of some kinds requests succeed and
/// do nothing. For one thread, and over in a few milliseconds.
/// </summary>
internal sealed unsafe class DirectProbe : IDisposable
{
    private const int Trap = 5;
    private const ulong PageSize = GuestMemory.PageSize;
    private const ulong Code = 0x40_0000, Data = Code + PageSize, ReadOnly = Data + PageSize, Nothing = ReadOnly + 16 * PageSize;
    private const ulong Stack = Data + PageSize / 2, Marks = Data + 0x10, Selectors = Data + 0x100;
    private const ulong NotCanonical = 0x8000_0000_0000, OldSystemCalls = 0xFFFF_FFFF_FF60_0000;
    private const ulong Mark = 0x0123_4567_89AB_CDEF;

    private readonly RamBacking _memory = new(2 * PageSize, shared: true);
    private readonly LowMemory _stateMemory = new(sizeof(ProcessorState));
    private readonly ProcessorState* _s;
    private readonly DirectRegisters _registers;
    private readonly DirectHelper _helper;
    private ulong _placed; // bytes of the page of code

    /// <exception cref="Win32Exception">The host refuses something that is needed.</exception>
    private DirectProbe()
    {
        _s = (ProcessorState*)_stateMemory.Pointer;
        _registers = new DirectRegisters(_s);
        try
        {
            _helper = new DirectHelper(_memory, _registers);
        }
        catch (Win32Exception)
        {
            Dispose();
            throw;
        }
        int descriptor = _helper.Process.MemoryDescriptor;
        _helper.Later(HelperImage.Map(Code, PageSize, HelperProtection.Read | HelperProtection.Execute, descriptor, 0));
        _helper.Later(HelperImage.Map(Data, PageSize, HelperProtection.Read | HelperProtection.Write, descriptor, PageSize));
        _helper.Later(HelperImage.Map(ReadOnly, PageSize, HelperProtection.Read, descriptor, PageSize));
    }

    /// <summary>What this host does, and the first thing that it does not do as direct execution needs it.</summary>
    public static DirectHost Run()
    {
        try
        {
            using var probe = new DirectProbe();
            if (probe.FirstFailure() is { } failure) return No(failure);
            (ulong xcr0, uint mask, bool stops) = (probe.ReadXcr0(), probe.ReadMxcsrMask(), probe.StopsAtBreakpoints());
            return new DirectHost(null, probe.TrappingInstructions(), xcr0, mask, stops);
        }
        catch (Exception e) when (e is Win32Exception or IOException or InvalidOperationException or EngineException)
        {
            return No(e.Message);
        }

        static DirectHost No(string why) => new(why, SensitiveInstructions.None, 0, 0, false);
    }

    private string? FirstFailure() => Trials().Where(trial => !IsMet(trial)).Select(trial => trial.Failure).FirstOrDefault()
        ?? (!StopsSystemCalls() ? "a system call of a program is carried out by the host, or not told as it was"
        : !KeepsRegisters() ? "a program's registers do not come back as it left them"
        : !ShowsFlagsAndSelectors() ? "a program finds other flags or selectors than Linux gives it"
        : !SetsBases() ? "a program does not have the bases of FS and GS that it is given"
        : !TellsBases() ? "WRFSBASE and WRGSBASE change bases that the host does not tell of afterwards"
        : !CanInterrupt() ? "a program cannot be interrupted"
        : OddSelector() is { } selector ? $"a program can load the selector {selector:X}h, which is the host's own" : null);

    private IEnumerable<DirectTrial> Trials()
    {
        const int illegal = 4, mapError = 1, accessError = 2;
        yield return new("RDTSC cannot be made to trap", [0x0F, 0x31]);
        yield return new("RDTSCP cannot be made to trap", [0x0F, 0x01, 0xF9]);
        if (_helper.CpuidFaults) yield return new("CPUID does not trap, although the host says so", [0x0F, 0xA2]);

        foreach ((string name, byte[] code) in ((string, byte[])[])[("HLT", [0xF4]), ("CLI", [0xFA]), ("IN", [0xEC]), ("RDMSR", [0x0F, 0x32]),
            ("MOV from CR0", [0x0F, 0x20, 0xC0]), ("MOV from DR7", [0x0F, 0x21, 0xF8]), ("INT 41h", [0xCD, 0x41])])
            yield return new($"{name} does not trap", code);

        yield return new("an undefined instruction does not trap", [0x0F, 0x0B]) { Signal = illegal };
        yield return new("a division by zero does not trap", [0xF7, 0xF1]);
        yield return new("INT3 does not trap behind itself", [0xCC], Rip: 1) { Signal = Trap };
        // PUSHF; OR DWORD [RSP], flag; POPF
        byte[] singleStep = [0x9C, 0x81, 0x0C, 0x24, 0, 1, 0, 0, 0x9D, 0x90], alignment = [0x9C, 0x81, 0x0C, 0x24, 0, 0, 4, 0, 0x9D, .. s_load];
        yield return new("a single step does not trap behind the next instruction", singleStep, Rip: singleStep.Length) { Signal = Trap };
        yield return new("an unaligned access does not trap with AC set", alignment, Data + 1, Rip: alignment.Length - s_load.Length);

        yield return new("an access to an address that is not canonical does not trap", s_load, NotCanonical);
        yield return Fault("an access to what is not mapped", s_load, Nothing + 0x123, mapError);
        yield return Fault("a write to what may be read", s_store, ReadOnly + 0x28, accessError);
        yield return Fault("execution of data", s_jump, Data + 0x31, accessError) with { Rip = null, Jumps = true };
        yield return new("a helper's own pages can be written to", s_store, _helper.OwnAddress);
        if (_helper.HiddenBy != 0) yield return new("a helper's own pages can be read in spite of their protection key", s_load, _helper.OwnAddress);
        yield return new("the host's page of old system calls cannot be closed", s_jump, OldSystemCalls, Rip: null);

        static DirectTrial Fault(string what, byte[] code, ulong address, int kind) =>
            new($"the host does not tell the address of {what}", code, address) { FaultCode = kind, Address = address };
    }

    // mov rax, [rbx]; mov [rbx], rax; jmp rbx
    private static readonly byte[] s_load = [0x48, 0x8B, 0x03], s_store = [0x48, 0x89, 0x03], s_jump = [0xFF, 0xE3];

    private byte* DataPage => _memory.Pointer + PageSize;

    /// <summary>Instructions and a system call behind them. Each place is used once: a processor may know what was there before.</summary>
    private ulong Place(ReadOnlySpan<byte> code)
    {
        const ulong alignment = 16;
        ulong address = Code + _placed;
        var room = new Span<byte>(_memory.Pointer + _placed, (int)(PageSize - _placed));
        code.CopyTo(room);
        ((ReadOnlySpan<byte>)[0x0F, 0x05]).CopyTo(room[code.Length..]);
        _placed = (_placed + (ulong)code.Length + 2 + alignment - 1) & ~(alignment - 1);
        return address;
    }

    private ulong Place(Action<Assembler> write) => Place(HelperImage.Assemble(Code + _placed, write));

    /// <summary>Registers as a program may have them.</summary>
    private void Prepare()
    {
        const uint usualMxcsr = 0x1F80;
        const ushort usualControl = 0x37F;
        new Span<byte>(_s, (int)(_s->TlbBytes - (byte*)_s)).Clear(); // what lies behind is large, and no part of registers
        Flags.Set(_s, DirectRegisters.Required);
        _s->Mxcsr = usualMxcsr;
        *(ushort*)_s->Fxsave = usualControl;
        _s->Rsp = Stack;
    }

    private TracedStop Run(ulong rip)
    {
        _s->Rip = rip;
        TracedStop stop = TracedStop.Ended;
        if (_helper.TryFinish() && _registers.TrySet(_helper.Process, _helper.HiddenBy)) stop = _helper.Process.Run();
        if (stop is TracedStop.Ended or TracedStop.Ending || !_registers.TryGet(_helper.Process, stop == TracedStop.SystemCall, out _))
            throw new Win32Exception(Errno.NotPermitted, "a process that is to run programs comes to an end");
        return stop;
    }

    private bool IsMet(in DirectTrial trial)
    {
        Prepare();
        _s->Rbx = trial.Pointer;
        ulong start = Place(trial.Code);
        // Where what is jumped to returns, if it runs.
        *(ulong*)(DataPage + (Stack - Data)) = start + (ulong)trial.Code.Length;
        TracedStop stop = Run(start);
        return _helper.Process.TryGetSignal(out int code, out ulong address) && trial.IsMet(stop, _helper.Process.Signal, code, address, start, _s->Rip);
    }

    /// <summary>Runs up to the INT3 that the code ends with.</summary>
    private bool RunsToEnd(Action<Assembler> write)
    {
        byte[] code = HelperImage.Assemble(Code + _placed, write);
        ulong start = Place(code);
        return Run(start) == TracedStop.Signal && _helper.Process.Signal == Trap && _s->Rip == start + (ulong)code.Length;
    }

    /// <summary>Neither SYSCALL nor INT 80h unmaps a page, which the filter below would let pass.</summary>
    private bool StopsSystemCalls()
    {
        const ulong munmapOf32Bits = 91, upper = 0x1234_5678_0000_0000;
        Prepare();
        (_s->Rax, _s->Rdi, _s->Rsi) = ((ulong)SystemCall.Munmap, Data, PageSize);
        ulong start = Place([]);
        if (Run(start) != TracedStop.SystemCall || _s->Rip != start + 2 || _s->Rax != (ulong)SystemCall.Munmap || _s->Rdi != Data) return false;
        Prepare();
        _s->Rax = upper | (ulong)SystemCall.Munmap; // Linux takes the lower half for the number
        start = Place([]);
        if (Run(start) != TracedStop.SystemCall || _s->Rax != (upper | (ulong)SystemCall.Munmap)) return false;
        Prepare();
        (_s->Rax, _s->Rbx, _s->Rcx) = (munmapOf32Bits, Data, PageSize);
        start = Place([0xCD, 0x80]);
        // Where the host has no 32-bit programs, INT 80h is a fault.
        TracedStop stop = Run(start);
        if (_s->Rip != start + (stop == TracedStop.SystemCall ? 2ul : 0)) return false;
        Prepare();
        _s->Rbx = Marks;
        *(ulong*)(DataPage + (Marks - Data)) = Mark;
        return RunsToEnd(a =>
        {
            a.mov(rax, __[rbx]);
            a.int3();
        }) && _s->Rax == Mark;
    }

    /// <summary>General registers, flags, x87 and vector registers, each of them changed.</summary>
    private bool KeepsRegisters()
    {
        const int gprs = 16, vectors = 16, stackRegisters = 8, stackOffset = 32, slot = 16, stackLength = 10;
        const uint mxcsr = 0x9FC0;
        const uint flags = (uint)(Rflags.Pf | Rflags.Af | Rflags.Sf | Rflags.Cf);
        Prepare();
        for (int n = 0; n < gprs; n++) *ProcessorState.Gpr(_s, n) = Mark * (ulong)(2 * n + 1);
        _s->Rsp = Stack; // some hosts refuse one that is not canonical, and software takes over
        Flags.Set(_s, DirectRegisters.Required | flags);
        for (int n = 0; n < vectors; n++)
            for (int i = 0; i < 32; i++) ProcessorState.SimdRegister(_s, n)[i] = VectorByte(n, i);
        for (int n = 0; n < stackRegisters; n++)
            for (int i = 0; i < stackLength; i++) _s->Fxsave[stackOffset + slot * n + i] = StackByte(n, i);
        (_s->Fxsave[3], _s->Fxsave[4], _s->Mxcsr) = (3 << 3, 0xFF, mxcsr); // TOP is 3, and all are full
        bool ran = RunsToEnd(a =>
        {
            foreach (AssemblerRegister64 r in (ReadOnlySpan<AssemblerRegister64>)[rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15])
                a.not(r);
            a.lea(rsp, __[rsp + gprs]);
            foreach (AssemblerRegisterYMM r in (ReadOnlySpan<AssemblerRegisterYMM>)[ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11,
                ymm12, ymm13, ymm14, ymm15]) a.vpaddb(r, r, r);
            a.fincstp();
            a.cmc();
            a.std();
            a.int3();
        });
        bool same = ran && Flags.Get(_s) == (DirectRegisters.Required | flags & ~(uint)Rflags.Cf | (uint)Rflags.Df)
            && _s->Fxsave[3] == 4 << 3 && _s->Fxsave[4] == 0xFF && _s->Mxcsr == mxcsr && _s->Rsp == Stack + gprs;
        for (int n = 0; n < gprs; n++) same &= ProcessorState.Gpr(_s, n) == &_s->Rsp || *ProcessorState.Gpr(_s, n) == ~(Mark * (ulong)(2 * n + 1));
        for (int n = 0; n < vectors; n++)
            for (int i = 0; i < 32; i++) same &= ProcessorState.SimdRegister(_s, n)[i] == (byte)(2 * VectorByte(n, i));
        for (int n = 0; n < stackRegisters; n++)
            for (int i = 0; i < stackLength; i++) same &= _s->Fxsave[stackOffset + slot * n + i] == StackByte((n + 1) % stackRegisters, i);
        return same;

        static byte VectorByte(int register, int index) => (byte)(register * 7 + index * 13 + 1);

        static byte StackByte(int register, int index) => (byte)(register * 11 + index * 5 + 0x80);
    }

    private bool ShowsFlagsAndSelectors()
    {
        Prepare();
        _s->Ds.Selector = DirectRegisters.Data;
        return RunsToEnd(a =>
        {
            a.pushfq();
            a.pop(rax);
            a.mov(ecx, cs);
            a.mov(edx, ss);
            a.mov(esi, ds);
            a.mov(edi, es);
            a.int3();
        }) && (_s->Rax, _s->Rcx, _s->Rdx) == (DirectRegisters.Required, DirectRegisters.Code64, DirectRegisters.Data)
            && (_s->Rsi, _s->Rdi) == (DirectRegisters.Data, 0ul);
    }

    private bool SetsBases()
    {
        Prepare();
        (_s->Fs.Base, _s->Gs.Base) = (Marks, Marks + 8);
        *(ulong*)(DataPage + (Marks - Data)) = Mark;
        *(ulong*)(DataPage + (Marks - Data) + 8) = ~Mark;
        return RunsToEnd(a =>
        {
            a.xor(ebx, ebx);
            a.mov(rax, __qword_ptr.fs[rbx]);
            a.mov(rdx, __qword_ptr.gs[rbx]);
            a.int3();
        }) && (_s->Rax, _s->Rdx, _s->Fs.Base, _s->Gs.Base) == (Mark, ~Mark, Marks, Marks + 8);
    }

    private bool TellsBases()
    {
        const int illegal = 4;
        Prepare();
        (_s->Rsi, _s->Rdi) = (Data + 0x123, Data + 0x456);
        bool ran = RunsToEnd(a =>
        {
            a.wrfsbase(rsi);
            a.wrgsbase(rdi);
            a.int3();
        });
        // Where the host does not have the instructions, software does.
        return ran ? (_s->Fs.Base, _s->Gs.Base) == (_s->Rsi, _s->Rdi) : _helper.Process.Signal == illegal;
    }

    private bool CanInterrupt()
    {
        Prepare();
        ulong start = Place([]);
        _helper.Process.Interrupt();
        return Run(start) == TracedStop.Signal && _helper.Process.WasInterrupted && _s->Rip == start;
    }

    /// <summary>A selector beyond those that <see cref="DirectExecution"/> compares with the guest's; LAR tells of all. Null: there is none.</summary>
    private int? OddSelector()
    {
        const int programsLevel = 3, step = 4, end = 0x1_0000;
        Prepare();
        (_s->Rdi, _s->Rcx) = (Selectors, programsLevel);
        bool ran = RunsToEnd(a =>
        {
            Label next = a.CreateLabel(), unknown = a.CreateLabel();
            a.Label(ref next);
            a.lar(eax, ecx);
            a.jne(unknown);
            a.mov(__word_ptr[rdi], cx);
            a.add(rdi, sizeof(ushort));
            a.Label(ref unknown);
            a.add(ecx, step);
            a.cmp(ecx, end);
            a.jb(next);
            a.int3();
        });
        if (!ran) return (int)(_s->Rcx & 0xFFFF); // more of them than a page takes
        foreach (ushort selector in new ReadOnlySpan<ushort>(DataPage + (Selectors - Data), (int)(_s->Rdi - Selectors) / sizeof(ushort)))
            if (selector is not (DirectRegisters.Code64 or DirectRegisters.Code32 or DirectRegisters.Data or DirectRegisters.ProcessorNumber)) return selector;
        return null;
    }

    /// <summary>What this host, or this processor, does not let programs execute.</summary>
    private SensitiveInstructions TrappingInstructions()
    {
        var traps = SensitiveInstructions.None;
        // Last what enters the host's kernel on some processors. MWAITX might wait, VMCALL and VMMCALL do something somewhere: they are not tried.
        foreach ((SensitiveInstructions kind, byte[] code) in ((SensitiveInstructions, byte[])[])[(SensitiveInstructions.Cpuid, [0x0F, 0xA2]),
            (SensitiveInstructions.Rdpmc, [0x0F, 0x33]), (SensitiveInstructions.Rdpid, [0xF3, 0x0F, 0xC7, 0xF8]),
            (SensitiveInstructions.ProtectionKeys, [0x0F, 0x01, 0xEE]), (SensitiveInstructions.Monitorx, [0x0F, 0x01, 0xFA]),
            (SensitiveInstructions.Rdpru, [0x0F, 0x01, 0xFD]), (SensitiveInstructions.Sysenter, [0x0F, 0x34])])
            if (IsMet(new DirectTrial("", code, Data))) traps |= kind;
        return traps;
    }

    private ulong ReadXcr0()
    {
        Prepare();
        return RunsToEnd(a =>
        {
            a.xgetbv();
            a.int3();
        }) ? _s->Rdx << 32 | (uint)_s->Rax : 0;
    }

    private uint ReadMxcsrMask()
    {
        const int maskOffset = 28, area = 0x200;
        Prepare();
        _s->Rbx = Data + area;
        return RunsToEnd(a =>
        {
            a.fxsave(__[rbx]);
            a.int3();
        }) ? *(uint*)(DataPage + area + maskOffset) : 0;
    }

    /// <summary>Where it is told to, and as often as it comes there: some hosts take the request and do nothing.</summary>
    private bool StopsAtBreakpoints()
    {
        byte[] code = [0x90, 0x90, 0x90, 0x90];
        ulong start = Place(code);
        if (!_helper.Process.TrySetBreakpoints([start, start + 3])) return false;
        return Stops(start, start) && Stops(start + 1, start + 3) && Stops(start, start)
            && _helper.Process.TrySetBreakpoints([]) && Run(Prepared(start)) == TracedStop.SystemCall;

        bool Stops(ulong from, ulong at) => Run(Prepared(from)) == TracedStop.Signal && _helper.Process.Signal == Trap && _s->Rip == at
            && _helper.Process.TryGetSignal(out int told, out _) && told == DirectHelper.BreakpointCode;

        ulong Prepared(ulong address)
        {
            Prepare();
            return address;
        }
    }

    public void Dispose()
    {
        _helper?.Dispose();
        _stateMemory.Dispose();
        _memory.Dispose();
    }
}
