using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Instructions that exit because the execution controls say so (Intel SDM vol. 3C, "Instructions That Cause VM Exits Conditionally"). The exit comes before
/// any effect, with what the instruction would read or write filled in. The next entry executes it with what the hypervisor left there, or raises #GP(0) if it
/// set
/// <see cref="X86Exit.Fault"/>; a hypervisor that does nothing has only watched.
/// </summary>
internal static unsafe class Intercepts
{
    /// <summary>The controls in force intercept this instruction. MWAIT is not asked about: it exits by itself, having retired.</summary>
    public static bool Applies(Processor p, in Instruction instruction, in InstructionRow row)
    {
        InterceptedInstructions wanted = row.Intercept & p.Controls.Instructions & ~InterceptedInstructions.Mwait;
        return wanted != 0 && instruction.Mnemonic == Mnemonic.Mov
            && instruction.Code is not (Code.Mov_r32_dr or Code.Mov_dr_r32 or Code.Mov_r64_dr or Code.Mov_dr_r64)
            ? (wanted & ControlRegister(instruction)) != 0
            : wanted != 0;
    }

    /// <summary>The control that intercepts this MOV to or from a control register.</summary>
    private static InterceptedInstructions ControlRegister(in Instruction instruction) => (instruction.Op0Register, instruction.Op1Register) switch
    {
        (Iced.Intel.Register.CR0, _) => InterceptedInstructions.Cr0,
        (Iced.Intel.Register.CR3, _) => InterceptedInstructions.Cr3Load,
        (Iced.Intel.Register.CR4, _) => InterceptedInstructions.Cr4,
        (_, Iced.Intel.Register.CR3) => InterceptedInstructions.Cr3Store,
        _ => InterceptedInstructions.None,
    };

    /// <summary>Stands in front of the instruction's own handler.</summary>
    public static Insn* Exit(Processor p, ProcessorState* s, Insn* i)
    {
        var code = (Code)i->Code;
        ref readonly InstructionRow row = ref InstructionTable.Get(code);
        Handler handler = (i->Flags & InsnFlags.HasMemory) != 0 ? row.Memory : row.Register;
        return code switch
        {
            Code.Cpuid => Cpuid(p, s, i),
            Code.Rdtsc or Code.Rdtscp => Rdtsc(p, s, i, handler),
            Code.Mov_cr_r32 or Code.Mov_cr_r64 => MoveToCr(p, s, i, code == Code.Mov_cr_r64),
            Code.Mov_r32_cr or Code.Mov_r64_cr => MoveFromCr3(p, s, i, code == Code.Mov_r64_cr),
            _ => Watched(p, s, i, row.Intercept, handler),
        };
    }

    /// <summary>False: the exit is on its way, and the handler returns <paramref name="result"/>. True: the hypervisor has answered.</summary>
    private static bool Answered(Processor p, Insn* i, ExitReason reason, out Insn* result, ulong address = 0, int size = 0, bool isWrite = false,
        ulong data = 0)
    {
        result = null;
        if (!p.Exits.TakeCompletion(i, reason))
        {
            result = p.Exits.ExitForCompletion(i, reason, address, size, isWrite, data);
            return false;
        }
        return !p.Exit.Fault ? true : throw p.GeneralProtection();
    }

    private static Insn* Cpuid(Processor p, ProcessorState* s, Insn* i)
    {
        uint leaf = (uint)s->Rax, subleaf = (uint)s->Rcx;
        X86Exit e = p.Exit;
        if (!Answered(p, i, ExitReason.Cpuid, out Insn* result))
        {
            CpuidResult r = CpuidLeaves.Query(p.CpuidSubject, leaf, subleaf);
            (e.Leaf, e.Subleaf, e.Eax, e.Ebx, e.Ecx, e.Edx) = (leaf, subleaf, r.Eax, r.Ebx, r.Ecx, r.Edx);
            return result;
        }
        (s->Rax, s->Rbx, s->Rcx, s->Rdx) = (e.Eax, e.Ebx, e.Ecx, e.Edx);
        return i + 1;
    }

    private static Insn* Rdtsc(Processor p, ProcessorState* s, Insn* i, Handler handler)
    {
        if (s->Cpl != 0 && (s->Cr4 & (ulong)Cr4.Tsd) != 0) throw p.GeneralProtection();
        if (!Answered(p, i, ExitReason.Rdtsc, out Insn* result, size: 8, data: p.Msrs.GuestTsc)) return result;
        Insn* next = handler(p, s, i);
        s->Rax = (uint)p.Exit.Data;
        s->Rdx = p.Exit.Data >> 32;
        return next;
    }

    private static Insn* MoveToCr(Processor p, ProcessorState* s, Insn* i, bool wide)
    {
        ulong value = wide ? Register.Get<ulong>(s, i->R1) : Register.Get<uint>(s, i->R1);
        if (!Answered(p, i, ExitReason.CrAccess, out Insn* result, i->R0, wide ? 8 : 4, isWrite: true, data: value)) return result;
        switch (i->R0)
        {
            case 0: p.ControlRegisters.WriteCr0(p.Exit.Data); break;
            case 3: p.ControlRegisters.WriteCr3(p.Exit.Data); break;
            default: p.ControlRegisters.WriteCr4(p.Exit.Data); break;
        }
        return Flow.Leave(s, i);
    }

    private static Insn* MoveFromCr3(Processor p, ProcessorState* s, Insn* i, bool wide)
    {
        if (!Answered(p, i, ExitReason.CrAccess, out Insn* result, 3, wide ? 8 : 4, data: s->Cr3)) return result;
        if (wide) Register.Set(s, i->R0, p.Exit.Data);
        else Register.Set(s, i->R0, (uint)p.Exit.Data);
        return Flow.Leave(s, i);
    }

    private static Insn* Watched(Processor p, ProcessorState* s, Insn* i, InterceptedInstructions kind, Handler handler)
    {
        (ExitReason reason, ulong address) = kind switch
        {
            InterceptedInstructions.Pause => (ExitReason.Pause, 0ul),
            InterceptedInstructions.Invlpg => (ExitReason.Invlpg, Access.EffectiveAddress(s, i)),
            InterceptedInstructions.Wbinvd => (ExitReason.Wbinvd, 0ul),
            InterceptedInstructions.DescriptorTable => (ExitReason.DescriptorTable, 0ul),
            InterceptedInstructions.MovDr => (ExitReason.DrAccess, (Code)i->Code is Code.Mov_r32_dr or Code.Mov_r64_dr ? i->R1 : i->R0),
            InterceptedInstructions.Rdpmc => (ExitReason.Rdpmc, (uint)s->Rcx),
            _ => (ExitReason.CrAccess, 0ul), // CLTS and LMSW
        };
        bool write = reason == ExitReason.CrAccess || (reason == ExitReason.DrAccess && (Code)i->Code is Code.Mov_dr_r32 or Code.Mov_dr_r64);
        return Answered(p, i, reason, out Insn* result, address, isWrite: write) ? handler(p, s, i) : result;
    }
}
