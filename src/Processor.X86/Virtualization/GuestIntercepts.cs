using Iced.Intel;

namespace Bunraku.Processor.X86;

/// <summary>
/// Instructions of a guest inside the guest that its hypervisor is asked about before they have any effect. Which ones is decided when they are decoded; what
/// depends on a register or a bitmap the hypervisor looks up then.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "Instructions That Cause VM Exits"; AMD APM vol. 2, "Instruction Intercepts".</remarks>
[Flags]
internal enum GuestIntercepts : ulong
{
    None = 0,
    Cpuid = 1ul << 0,
    Pause = 1ul << 1,
    Rdtsc = 1ul << 2,
    Rdtscp = 1ul << 3,
    Rdpid = 1ul << 4,
    Rdpmc = 1ul << 5,
    Invlpg = 1ul << 6,
    Invpcid = 1ul << 7,
    /// <summary>WBINVD, WBNOINVD.</summary>
    Wbinvd = 1ul << 8,
    Invd = 1ul << 9,
    Hlt = 1ul << 10,
    Monitor = 1ul << 11,
    Mwait = 1ul << 12,
    Sgdt = 1ul << 13,
    Sidt = 1ul << 14,
    Sldt = 1ul << 15,
    Str = 1ul << 16,
    Lgdt = 1ul << 17,
    Lidt = 1ul << 18,
    Lldt = 1ul << 19,
    Ltr = 1ul << 20,
    DescriptorTables = Sgdt | Sidt | Sldt | Str | Lgdt | Lidt | Lldt | Ltr,
    /// <summary>MOV from CR0.</summary>
    ReadCr0 = 1ul << 21,
    ReadCr2 = 1ul << 22,
    ReadCr3 = 1ul << 23,
    ReadCr4 = 1ul << 24,
    ReadCr8 = 1ul << 25,
    /// <summary>MOV to CR0.</summary>
    WriteCr0 = 1ul << 26,
    WriteCr2 = 1ul << 27,
    WriteCr3 = 1ul << 28,
    WriteCr4 = 1ul << 29,
    WriteCr8 = 1ul << 30,
    Clts = 1ul << 31,
    Lmsw = 1ul << 32,
    Smsw = 1ul << 33,
    /// <summary>MOV from a debug register.</summary>
    ReadDr = 1ul << 34,
    WriteDr = 1ul << 35,
    Rdmsr = 1ul << 36,
    Wrmsr = 1ul << 37,
    /// <summary>IN and OUT.</summary>
    Io = 1ul << 38,
    /// <summary>INS and OUTS.</summary>
    IoString = 1ul << 39,
    Iret = 1ul << 40,
    Pushf = 1ul << 41,
    Popf = 1ul << 42,
    /// <summary>INT n.</summary>
    Int = 1ul << 43,
    /// <summary>INT1.</summary>
    Icebp = 1ul << 44,
    Rsm = 1ul << 45,
    Rdrand = 1ul << 46,
    Rdseed = 1ul << 47,
    Xsaves = 1ul << 48,
    Xrstors = 1ul << 49,
    Xsetbv = 1ul << 50,
    Vmcall = 1ul << 51,
    Vmmcall = 1ul << 52,
}

/// <summary>Which flag of <see cref="GuestIntercepts"/> an instruction belongs to.</summary>
internal static class GuestInterceptTable
{
    private static readonly GuestIntercepts[] s_kinds = [.. Enum.GetValues<Code>().Select(code => Of(code.Mnemonic()))];

    /// <summary>
    /// Its flag; <see cref="GuestIntercepts.None"/> for instructions that nobody intercepts. MOV to and from control registers: see the overload.
    /// </summary>
    public static GuestIntercepts Find(Code code) => s_kinds[(int)code];

    /// <summary>As the other, with the number of the control register for MOV.</summary>
    public static GuestIntercepts Find(Code code, int controlRegister) => code switch
    {
        Code.Mov_r32_cr or Code.Mov_r64_cr => Register(GuestIntercepts.ReadCr0, controlRegister),
        Code.Mov_cr_r32 or Code.Mov_cr_r64 => Register(GuestIntercepts.WriteCr0, controlRegister),
        Code.Mov_r32_dr or Code.Mov_r64_dr => GuestIntercepts.ReadDr,
        Code.Mov_dr_r32 or Code.Mov_dr_r64 => GuestIntercepts.WriteDr,
        _ => s_kinds[(int)code],
    };

    /// <summary>The flag of an instruction as it was decoded.</summary>
    public static GuestIntercepts Find(in Instruction instruction)
    {
        GuestIntercepts kind = s_kinds[(int)instruction.Code];
        if (kind != 0 || instruction.Mnemonic != Mnemonic.Mov) return kind;
        Iced.Intel.Register register = instruction.Op0Register.IsCR() ? instruction.Op0Register : instruction.Op1Register;
        return Find(instruction.Code, register.IsCR() ? register - Iced.Intel.Register.CR0 : 0);
    }

    /// <summary>CR0 comes first, then CR2, CR3, CR4 and CR8.</summary>
    private static GuestIntercepts Register(GuestIntercepts first, int number)
    {
        int at = number switch { 0 => 0, 2 => 1, 3 => 2, 4 => 3, 8 => 4, _ => -1 };
        return at < 0 ? GuestIntercepts.None : (GuestIntercepts)((ulong)first << at);
    }

    private static GuestIntercepts Of(Mnemonic mnemonic)
    {
#pragma warning disable IDE0055 // one aligned row an instruction
        return mnemonic switch
        {
            Mnemonic.Cpuid                                             => GuestIntercepts.Cpuid,
            Mnemonic.Pause                                             => GuestIntercepts.Pause,
            Mnemonic.Rdtsc                                             => GuestIntercepts.Rdtsc,
            Mnemonic.Rdtscp                                            => GuestIntercepts.Rdtscp,
            Mnemonic.Rdpid                                             => GuestIntercepts.Rdpid,
            Mnemonic.Rdpmc                                             => GuestIntercepts.Rdpmc,
            Mnemonic.Invlpg                                            => GuestIntercepts.Invlpg,
            Mnemonic.Invpcid                                           => GuestIntercepts.Invpcid,
            Mnemonic.Wbinvd or Mnemonic.Wbnoinvd                       => GuestIntercepts.Wbinvd,
            Mnemonic.Invd                                              => GuestIntercepts.Invd,
            Mnemonic.Hlt                                               => GuestIntercepts.Hlt,
            Mnemonic.Monitor                                           => GuestIntercepts.Monitor,
            Mnemonic.Mwait                                             => GuestIntercepts.Mwait,
            Mnemonic.Sgdt                                              => GuestIntercepts.Sgdt,
            Mnemonic.Sidt                                              => GuestIntercepts.Sidt,
            Mnemonic.Sldt                                              => GuestIntercepts.Sldt,
            Mnemonic.Str                                               => GuestIntercepts.Str,
            Mnemonic.Lgdt                                              => GuestIntercepts.Lgdt,
            Mnemonic.Lidt                                              => GuestIntercepts.Lidt,
            Mnemonic.Lldt                                              => GuestIntercepts.Lldt,
            Mnemonic.Ltr                                               => GuestIntercepts.Ltr,
            Mnemonic.Clts                                              => GuestIntercepts.Clts,
            Mnemonic.Lmsw                                              => GuestIntercepts.Lmsw,
            Mnemonic.Smsw                                              => GuestIntercepts.Smsw,
            Mnemonic.Rdmsr                                             => GuestIntercepts.Rdmsr,
            Mnemonic.Wrmsr                                             => GuestIntercepts.Wrmsr,
            Mnemonic.In or Mnemonic.Out                                => GuestIntercepts.Io,
            Mnemonic.Insb or Mnemonic.Insw or Mnemonic.Insd
                or Mnemonic.Outsb or Mnemonic.Outsw or Mnemonic.Outsd  => GuestIntercepts.IoString,
            Mnemonic.Iret or Mnemonic.Iretd or Mnemonic.Iretq          => GuestIntercepts.Iret,
            Mnemonic.Pushf or Mnemonic.Pushfd or Mnemonic.Pushfq       => GuestIntercepts.Pushf,
            Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq          => GuestIntercepts.Popf,
            Mnemonic.Int                                               => GuestIntercepts.Int,
            Mnemonic.Int1                                              => GuestIntercepts.Icebp,
            Mnemonic.Rsm                                               => GuestIntercepts.Rsm,
            Mnemonic.Rdrand                                            => GuestIntercepts.Rdrand,
            Mnemonic.Rdseed                                            => GuestIntercepts.Rdseed,
            Mnemonic.Xsaves or Mnemonic.Xsaves64                       => GuestIntercepts.Xsaves,
            Mnemonic.Xrstors or Mnemonic.Xrstors64                     => GuestIntercepts.Xrstors,
            Mnemonic.Xsetbv                                            => GuestIntercepts.Xsetbv,
            Mnemonic.Vmcall                                            => GuestIntercepts.Vmcall,
            Mnemonic.Vmmcall                                           => GuestIntercepts.Vmmcall,
            _                                                          => GuestIntercepts.None,
        };
#pragma warning restore IDE0055
    }
}

/// <summary>Stands in front of the handler of an instruction that a guest's hypervisor is asked about.</summary>
internal static unsafe class GuestInterception
{
    public static Insn* Ask(Processor p, ProcessorState* s, Insn* i)
    {
        var code = (Code)i->Code;
        bool writes = code is Code.Mov_cr_r32 or Code.Mov_cr_r64;
        if (!p.Exits.CompletionPending && p.GuestHypervisor is { } hypervisor
            && hypervisor.TakeInstruction(GuestInterceptTable.Find(code, writes ? i->R0 : i->R1), i, out Insn* next)) return next;
        ref readonly InstructionRow row = ref InstructionTable.Get(code);
        if ((i->Flags & InsnFlags.OuterIntercept) != 0) return Intercepts.Exit(p, s, i);
        return (i->Flags & InsnFlags.HasMemory) != 0 ? row.Memory(p, s, i) : row.Register(p, s, i);
    }
}
