using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Silicon;

/// <summary>State that the routine loads and stores around a case besides the general registers and flags.</summary>
[Flags]
public enum StateParts
{
    General = 0,
    /// <summary>YMM0 to YMM15 and MXCSR.</summary>
    Vector = 1,
    /// <summary>The FXSAVE image: x87 and MMX.</summary>
    X87 = 2,
}

/// <summary>The emitted routine with its entry points. The same bytes run on the host and in the guest.</summary>
internal sealed class RoutineCode
{
    public byte[] Bytes { get; }
    /// <summary>Host entry: a C function without arguments.</summary>
    public ulong HostEntry { get; }
    public ulong HostExit { get; }
    /// <summary>First instruction of the trial loop: where the guest starts.</summary>
    public ulong Loop { get; }
    public ulong GuestExit { get; }
    /// <summary>Where a case ends.</summary>
    public ulong Store { get; }
    /// <summary>Where a case ends that took the marked way.</summary>
    public ulong StoreMarked { get; }
    /// <summary>Host signal handler.</summary>
    public ulong SignalHandler { get; }

    public RoutineCode(StateParts parts)
    {
        var a = new Assembler(64);
        Label loop = a.CreateLabel(), store = a.CreateLabel(), marked = a.CreateLabel(), hostEntry = a.CreateLabel(), hostExit = a.CreateLabel(),
            guestExit = a.CreateLabel(), signal = a.CreateLabel();
        AssemblerRegister64[] gpr = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        AssemblerRegisterYMM[] ymm = [ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15];

        a.Label(ref loop);
        a.mov(rsp, __qword_ptr[Slot.Current]);
        if (parts.HasFlag(StateParts.X87)) a.fxrstor64(__[rsp + Context.Fx]);
        if (parts.HasFlag(StateParts.Vector))
        {
            for (int n = 0; n < 16; n++) a.vmovups(ymm[n], __ymmword_ptr[rsp + Context.Ymm + n * 32]);
            a.ldmxcsr(__dword_ptr[rsp + Context.Mxcsr]);
        }
        a.mov(rax, Layout.FsBase);
        a.wrfsbase(rax);
        a.mov(rax, Layout.GsBase);
        a.wrgsbase(rax);
        a.mov(rax, __qword_ptr[rsp + Context.Target]);
        a.mov(__qword_ptr[Slot.Target], rax);
        a.mov(__dword_ptr[Slot.InTest], 1);
        a.lea(rsp, __[rsp + Context.Rflags]);
        a.popfq();
        for (int n = 0; n < 16; n++)
        {
            if (n != 4) a.mov(gpr[n], __qword_ptr[rsp + (n * 8 - (Context.Rflags + 8))]);
        }
        a.mov(rsp, __qword_ptr[rsp + (4 * 8 - (Context.Rflags + 8))]);
        a.jmp(__qword_ptr[Slot.Target]);

        a.Label(ref marked);
        a.mov(__dword_ptr[Slot.Mark], 1);
        a.Label(ref store);
        a.mov(__qword_ptr[Slot.SavedRsp], rsp);
        a.mov(rsp, __qword_ptr[Slot.Current]);
        for (int n = 0; n < 16; n++)
        {
            if (n != 4) a.mov(__qword_ptr[rsp + (Context.OutGpr + n * 8)], gpr[n]);
        }
        a.mov(rbx, rsp);
        a.lea(rsp, __[rsp + (Context.OutRflags + 8)]);
        a.pushfq();
        a.mov(rsp, Slot.StackTop);
        a.push(0x202);
        a.popfq();
        a.mov(rax, __qword_ptr[Slot.SavedRsp]);
        a.mov(__qword_ptr[rbx + (Context.OutGpr + 4 * 8)], rax);
        a.mov(eax, __dword_ptr[Slot.Mark]);
        a.mov(__dword_ptr[rbx + Context.OutMark], eax);
        a.xor(eax, eax);
        a.mov(__dword_ptr[Slot.Mark], eax);
        a.mov(__dword_ptr[Slot.InTest], eax);
        if (parts.HasFlag(StateParts.Vector))
        {
            for (int n = 0; n < 16; n++) a.vmovups(__ymmword_ptr[rbx + (Context.OutYmm + n * 32)], ymm[n]);
            a.stmxcsr(__dword_ptr[rbx + Context.OutMxcsr]);
        }
        if (parts.HasFlag(StateParts.X87)) a.fxsave64(__[rbx + Context.OutFx]);
        a.add(rbx, Context.Size);
        a.mov(__qword_ptr[Slot.Current], rbx);
        a.dec(__qword_ptr[Slot.Count]);
        a.jne(loop);
        a.jmp(__qword_ptr[Slot.Exit]);

        a.Label(ref guestExit);
        a.@int(Layout.DoneVector);
        a.ud2();

        a.Label(ref hostEntry);
        foreach (AssemblerRegister64 r in (AssemblerRegister64[])[rbx, rbp, r12, r13, r14, r15]) a.push(r);
        a.rdfsbase(rax);
        a.mov(__qword_ptr[Slot.HostFs], rax);
        a.rdgsbase(rax);
        a.mov(__qword_ptr[Slot.HostGs], rax);
        a.stmxcsr(__dword_ptr[Slot.HostMxcsr]);
        a.fnstcw(__word_ptr[Slot.HostFcw]);
        a.mov(eax, Layout.Flat);
        a.mov(ds, ax);
        a.mov(es, ax);
        a.mov(__qword_ptr[Slot.HostRsp], rsp);
        a.jmp(loop);

        a.Label(ref hostExit);
        a.mov(rsp, __qword_ptr[Slot.HostRsp]);
        a.xor(eax, eax);
        a.mov(ds, ax);
        a.mov(es, ax);
        a.mov(fs, ax);
        a.mov(gs, ax);
        a.mov(eax, Layout.Flat);
        a.mov(ss, ax);
        a.mov(rax, __qword_ptr[Slot.HostFs]);
        a.wrfsbase(rax);
        a.mov(rax, __qword_ptr[Slot.HostGs]);
        a.wrgsbase(rax);
        a.fninit();
        a.fldcw(__word_ptr[Slot.HostFcw]);
        a.ldmxcsr(__dword_ptr[Slot.HostMxcsr]);
        if (parts.HasFlag(StateParts.Vector)) a.vzeroupper();
        foreach (AssemblerRegister64 r in (AssemblerRegister64[])[r15, r14, r13, r12, rbp, rbx]) a.pop(r);
        a.ret();

        // void handler(int signal, siginfo_t*, ucontext_t*). Touches neither FS nor the C library. A fault of a case is recorded in its context
        // and the signal returns to the store routine with all registers as the fault left them; a fault of the routine itself ends the process.
        const int Gregs = 40, GregRip = Gregs + 16 * 8, GregFlags = Gregs + 17 * 8, GregSegments = Gregs + 18 * 8, GregError = Gregs + 19 * 8,
            GregTrap = Gregs + 20 * 8, GregCr2 = Gregs + 22 * 8;
        Label own = a.CreateLabel();
        a.Label(ref signal);
        a.cmp(__dword_ptr[Slot.InTest], 0);
        a.je(own);
        a.mov(rcx, __qword_ptr[Slot.Current]);
        foreach ((int greg, int field) in (ReadOnlySpan<(int, int)>)[(GregTrap, Context.FaultVector), (GregError, Context.FaultError),
            (GregRip, Context.FaultRip), (GregCr2, Context.FaultAddress)])
        {
            a.mov(rax, __qword_ptr[rdx + greg]);
            a.mov(__qword_ptr[rcx + field], rax);
        }
        a.and(__dword_ptr[rdx + GregFlags], ~0x100); // a case that set TF must not step through the store
        a.mov(__word_ptr[rdx + GregSegments], Layout.Code64);
        a.mov(__word_ptr[rdx + (GregSegments + 6)], Layout.Flat);
        a.lea(rax, __[store]);
        a.mov(__qword_ptr[rdx + GregRip], rax);
        a.ret();
        a.Label(ref own);
        a.ud2();

        var writer = new ByteWriter();
        AssemblerResult result = a.Assemble(writer, Layout.Routine, BlockEncoderOptions.ReturnNewInstructionOffsets);
        Bytes = writer.ToArray();
        if ((ulong)Bytes.Length > Layout.RoutineSize) throw new InvalidOperationException("the routine does not fit");
        Loop = result.GetLabelRIP(loop);
        Store = result.GetLabelRIP(store);
        StoreMarked = result.GetLabelRIP(marked);
        HostEntry = result.GetLabelRIP(hostEntry);
        HostExit = result.GetLabelRIP(hostExit);
        GuestExit = result.GetLabelRIP(guestExit);
        SignalHandler = result.GetLabelRIP(signal);
    }
}

/// <summary>Collects encoded bytes.</summary>
internal sealed class ByteWriter : CodeWriter
{
    private readonly List<byte> _bytes = [];
    public int Count => _bytes.Count;
    public override void WriteByte(byte value) => _bytes.Add(value);
    public byte[] ToArray() => [.. _bytes];
    public void Clear() => _bytes.Clear();
    public void Append(ReadOnlySpan<byte> bytes) => _bytes.AddRange(bytes);
}
