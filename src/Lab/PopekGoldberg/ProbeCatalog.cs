using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>
/// The instructions of the experiment. Nothing here says what they do: operands are chosen so that an effect, if there is one, can be seen,
/// and so that the instruction has a chance to complete at every level.
/// </summary>
internal static class ProbeCatalog
{
    /// <summary>The control: does nothing, so that whatever changes beside it comes from the place and not from an instruction.</summary>
    public static Probe Control { get; } = new("NOP", a => a.nop());

    public static IReadOnlyList<Probe> All { get; } =
    [
#pragma warning disable IDE0055
        // Descriptor tables, segments
        new("SGDT",        a => a.sgdt(__[rsi])),
        new("SIDT",        a => a.sidt(__[rsi])),
        new("SLDT",        a => a.sldt(eax)),
        new("STR",         a => a.str(eax)),
        new("LGDT",        a => a.lgdt(__[rsi]),            i => Table(i, 0x37F, i.OtherGdt)),
        new("LIDT",        a => a.lidt(__[rsi]),            i => Table(i, 0xDFF, i.OtherIdt)),
        new("LLDT",        a => a.lldt(cx),                 i => i[Gp.Rcx] = i.OtherLdt),
        new("LTR",         a => a.ltr(cx),                  i => i[Gp.Rcx] = i.OtherTss),
        new("LAR",         a => a.lar(eax, ecx),            i => i[Gp.Rcx] = i.KernelData),
        new("LSL",         a => a.lsl(eax, ecx),            i => i[Gp.Rcx] = i.KernelData),
        new("VERR",        a => a.verr(cx),                 i => i[Gp.Rcx] = i.KernelData),
        new("VERW",        a => a.verw(cx),                 i => i[Gp.Rcx] = i.KernelData),
        new("ARPL",        a => a.arpl(cx, dx),             i => (i[Gp.Rcx], i[Gp.Rdx]) = (i.KernelData, 3), Bitness: 32),
        new("MOV r,CS",    a => a.mov(eax, cs)),
        new("MOV r,SS",    a => a.mov(eax, ss)),
        new("MOV r,DS",    a => a.mov(eax, ds)),
        new("MOV DS,r",    a => a.mov(ds, ecx),             i => i[Gp.Rcx] = i.UserData),
        new("MOV SS,r",    a => a.mov(ss, ecx),             i => i[Gp.Rcx] = i.Stack),
        new("PUSH CS",     a => a.push(cs),                 Bitness: 32),
        new("PUSH GS",     a => a.push(gs)),
        new("POP GS",      a => a.pop(gs),                  i => i.Stacked(i.UserData)),

        // Flags
        new("PUSHF",       a => a.pushfq()),
        new("POPF",        a => a.popfq(),                  i => i.Stacked(ProbeInput.FlagsWithoutIf)),
        new("CLI",         a => a.cli()),
        new("STI",         a => a.sti()),

        // Transfers between segments and levels
        new("CALL far",    a => a.call(__fword_ptr[rsi]),   Far),
        new("JMP far",     a => a.jmp(__fword_ptr[rsi]),    Far),
        new("RET far",     a => a.AddInstruction(Instruction.Create(Code.Retfq)), i => i.Stacked(i.After, (ushort)(i.FarCode | i.Code & 3u))),
        new("IRET",        a => a.iretq(),                  i => i.Stacked(i.After, i.Code, ProbeInput.FlagsWithoutIf, i[Gp.Rsp], i.Stack)),
        new("INT n",       a => a.@int(0x21)),
        new("INT3",        a => a.int3()),
        new("SYSRET",      a => a.sysretq(),                i => (i[Gp.Rcx], i.Gpr[11]) = (i.After, 0x202)),
        new("SWAPGS",      a => a.swapgs()),

        // Control, debug and model-specific registers
        new("SMSW",        a => a.smsw(eax)),
        new("LMSW",        a => a.lmsw(cx),                 i => i[Gp.Rcx] = 0x39),
        new("CLTS",        a => a.clts()),
        new("MOV r,CR0",   a => a.mov(rax, cr0)),
        new("MOV r,CR2",   a => a.mov(rax, cr2)),
        new("MOV r,CR3",   a => a.mov(rax, cr3)),
        new("MOV r,CR4",   a => a.mov(rax, cr4)),
        new("MOV r,CR8",   a => a.mov(rax, cr8)),
        new("MOV CR0,r",   a => a.mov(cr0, rcx),            i => i[Gp.Rcx] = 0x8001_0031),
        new("MOV CR2,r",   a => a.mov(cr2, rcx),            i => i[Gp.Rcx] = 0x1234_5000),
        new("MOV CR3,r",   a => a.mov(cr3, rcx),            i => i[Gp.Rcx] = i.OtherRoot),
        new("MOV CR4,r",   a => a.mov(cr4, rcx),            i => i[Gp.Rcx] = 0x628),
        new("MOV CR8,r",   a => a.mov(cr8, rcx),            i => i[Gp.Rcx] = 3),
        new("MOV r,DR0",   a => a.mov(rax, dr0)),
        new("MOV r,DR6",   a => a.mov(rax, dr6)),
        new("MOV r,DR7",   a => a.mov(rax, dr7)),
        new("MOV DR0,r",   a => a.mov(dr0, rcx),            i => i[Gp.Rcx] = 0x7654_3210),
        new("MOV DR7,r",   a => a.mov(dr7, rcx),            i => i[Gp.Rcx] = 0x3_0400),
        new("RDMSR",       a => a.rdmsr(),                  i => i[Gp.Rcx] = Msr.Lstar),
        new("WRMSR",       a => a.wrmsr(),                  i => (i[Gp.Rcx], i[Gp.Rax]) = (Msr.Lstar, 0x7777_0000)),
        new("XGETBV",      a => a.xgetbv()),
        new("XSETBV",      a => a.xsetbv(),                 i => i[Gp.Rax] = 1),

        // Time, identification, counters
        new("RDTSC",       a => a.rdtsc()),
        new("RDTSCP",      a => a.rdtscp()),
        new("RDPID",       a => a.rdpid(rax)),
        new("RDPMC",       a => a.rdpmc()),
        new("CPUID",       a => a.cpuid(),                  i => i[Gp.Rax] = 0xD),

        // Ports, translations, caches, waiting
        new("IN",          a => a.@in(al, 0x61)),
        new("OUT",         a => a.@out(0x80, al)),
        new("INVLPG",      a => a.invlpg(__byte_ptr[rdi]),  i => i[Gp.Rdi] = i.WatchedPage),
        new("INVPCID",     a => a.invpcid(rax, __[rsi]),    i => Invpcid(i)),
        new("INVD",        a => a.invd()),
        new("WBINVD",      a => a.wbinvd()),
        new("HLT",         a => a.hlt()),
        new("MONITOR",     a => a.monitor(),                i => i[Gp.Rax] = i.Operand),
        new("MWAIT",       a => a.mwait()),

        // For the hypervisor
        new("VMCALL",      a => a.vmcall(),                 i => i[Gp.Rax] = 0x7FFF),
        new("VMMCALL",     a => a.vmmcall(),                i => i[Gp.Rax] = 0x7FFF),
#pragma warning restore IDE0055
        Control,
    ];

    /// <summary>
    /// Instructions that direct execution has to keep from showing the host, beside those that the experiment finds sensitive and not privileged. Their areas
    /// reach beyond the scratch memory of the other places.
    /// </summary>
    public static IReadOnlyList<Probe> DirectToo { get; } =
    [
#pragma warning disable IDE0055
        new("XSAVE",       a => a.xsave(__[rsi]),           i => i[Gp.Rax] = 7),
        new("FXSAVE",      a => a.fxsave(__[rsi])),
        new("INT 80h",     a => a.@int(0x80)),
        .. All.Where(p => p.Name is "VMCALL" or "VMMCALL"),
        Control,
#pragma warning restore IDE0055
    ];

    /// <summary>
    /// What docs/direct.md says a program could see that looks for it: instructions in the middle of MOV EAX,imm32, behind a jump there; and one that an IRET
    /// leads to which sets RF, as is done to pass a breakpoint.
    /// </summary>
    public static IReadOnlyList<Probe> DirectLeaks { get; } =
    [
#pragma warning disable IDE0055
        new("SGDT hidden",  a => a.db(0xEB, 1, 0xB8, 0x0F, 0x01, 0x06, 0x90)),
        new("INT80 hidden", a => a.db(0xEB, 1, 0xB8, 0xCD, 0x80, 0x90, 0x90), i => i[Gp.Rax] = 0x1234_5678_0000_0000),
        new("CPUID by RF",  a => { a.iretq(); a.cpuid(); }, i =>
        {
            i[Gp.Rax] = 1;
            i.Stacked(i.After - CpuidLength, i.Code, ResumeFlag | ProbeInput.FlagsWithoutIf, i[Gp.Rsp], i.Stack);
        }),
#pragma warning restore IDE0055
    ];

    private const ulong CpuidLength = 2, ResumeFlag = 0x1_0000;

    /// <summary>A pseudo-descriptor.</summary>
    private static void Table(ProbeInput i, ushort limit, ulong start)
    {
        i.Write(0, limit);
        i.Write(2, start);
    }

    /// <summary>A far pointer m16:32.</summary>
    private static void Far(ProbeInput i)
    {
        i.Write(0, (uint)i.After);
        i.Write(4, i.FarCode);
    }

    /// <summary>Type 0: one address of one PCID.</summary>
    private static void Invpcid(ProbeInput i)
    {
        i.Write(0, 0ul);
        i.Write(8, i.WatchedPage);
    }
}

/// <summary>Indexes of model-specific registers. AMD APM vol. 2, appendix "MSR Cross-Reference".</summary>
internal static class Msr
{
    public const uint Tsc = 0x10, Efer = 0xC000_0080, Star = 0xC000_0081, Lstar = 0xC000_0082, Fmask = 0xC000_0084, FsBase = 0xC000_0100, GsBase = 0xC000_0101,
        KernelGsBase = 0xC000_0102, TscAux = 0xC000_0103;
}
