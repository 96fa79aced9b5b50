using Bunraku.Lab.PopekGoldberg;
using Bunraku.Lab.Programs;
using Iced.Intel;
using static Bunraku.Engines.X86.PagingBits;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.Shadow;

/// <summary>A page of the program, and what the guest's table says of it at the start.</summary>
internal sealed record ProgramPage(string Name, ulong Linear, ulong Flags)
{
    public ulong Frame => ProgramGuest.Frames + Linear - ProgramGuest.ProgramBase;
}

/// <summary>Something that the program or the kernel does when it is asked to.</summary>
/// <param name="Who">Program or kernel.</param>
/// <param name="Address">Where the code lies.</param>
/// <param name="Pages">Names of the pages that it is about.</param>
/// <param name="Wait">So long nothing happens before.</param>
internal sealed record GuestStep(string Who, string What, ulong Address, string[] Pages, TimeSpan Wait = default);

/// <summary>
/// The program of the experiment and its kernel. The kernel asks by a port what is next: an address of the program's, to which it returns, or one of its own
/// routines; either ends by asking again.
/// </summary>
internal sealed class ShadowGuest : IDisposable
{
    /// <summary>The port by which the kernel asks.</summary>
    public const byte NextPort = 0xE1;

    private const ulong Data = Present | Writable | User | ExecuteDisable, Code = Present | User, Used = Accessed | Dirty;
    private const int PageFault = 14;
    /// <summary>A frame that no page has at the start.</summary>
    private const ulong OtherFrame = ProgramGuest.Frames + 0x10_0000;
    private const ulong KeepTranslations = 1ul << 63; // in a value for CR3
    /// <summary>The shadow is compared with the guest's table once in a second.</summary>
    private static readonly TimeSpan s_untilCompared = TimeSpan.FromSeconds(1.1);

    public static IReadOnlyList<ProgramPage> Pages { get; } =
    [
#pragma warning disable IDE0055
        new("code",    ProgramGuest.ProgramBase,          Code),
        new("data",    ProgramGuest.ProgramBase + 0x1000, Data),
        new("beside",  ProgramGuest.ProgramBase + 0x2000, Data | Used),
        new("copied",  ProgramGuest.ProgramBase + 0x3000, Data & ~Writable),
        new("absent",  ProgramGuest.ProgramBase + 0x4000, Data & ~Present),
        new("guarded", ProgramGuest.ProgramBase + 0x5000, Code),
        new("refused", ProgramGuest.ProgramBase + 0x6000, Code),
        new("made",    ProgramGuest.ProgramBase + 0x7000, Present | Writable | User),
        new("stack",   ProgramGuest.ProgramBase + 0x8000, Data | Used),
#pragma warning restore IDE0055
    ];

    private readonly List<GuestStep> _steps = [];
    private ulong _program = Page("code").Linear, _kernel = ProgramGuest.Routines;

    public ProgramGuest Guest { get; } = new();
    public IReadOnlyList<GuestStep> Steps => _steps;

    public ShadowGuest()
    {
        foreach (ProgramPage page in Pages) Guest[page.Linear] = page.Frame | page.Flags;
        PlaceKernel();
        // Code that shows the task register, which would be the host's: once, and more often than the processor has breakpoints.
        Guest.Place(Page("guarded").Frame, Page("guarded").Linear, a => ShowTask(a, 1));
        Guest.Place(Page("refused").Frame, Page("refused").Linear, a => ShowTask(a, 5));
        Guest.Place(Page("made").Frame, Page("made").Linear, a => a.ret());
        AddSteps();
    }

    private static ProgramPage Page(string name) => Pages.First(p => p.Name == name);
    private static int Linear(string name) => (int)Page(name).Linear;

    private static void ShowTask(Assembler a, int times)
    {
        // The first instruction of a page that is not mapped yet is software's in any case.
        a.nop();
        for (int n = 0; n < times; n++) a.str(eax);
        a.ret();
    }

    private void PlaceKernel()
    {
        Guest.Place(ProgramGuest.Entry, ProgramGuest.Entry, a =>
        {
            Label program = a.CreateLabel();
            a.@in(eax, NextPort);
            a.cmp(eax, (int)ProgramGuest.ProgramBase);
            a.jae(program);
            a.jmp(rax);
            a.Label(ref program);
            a.mov(ecx, eax);
            a.mov(r11d, 0x202);
            a.mov(esp, Linear("stack") + 0x1000);
            a.sysretq();
        });
        // What is not there is there from now on, and what may not be written to may be.
        _kernel = Guest.Place(_kernel, _kernel, a =>
        {
            a.push(rax);
            a.push(rcx);
            a.mov(rcx, cr2);
            a.mov(eax, ecx);
            a.shr(eax, 12);
            a.and(eax, 511);
            a.or(__qword_ptr[rax * 8 + (int)ProgramGuest.EntryAddress(ProgramGuest.ProgramBase)], (int)(Present | Writable));
            a.invlpg(__[rcx]);
            a.pop(rcx);
            a.pop(rax);
            a.add(rsp, 8); // the error code
            a.iretq();
        });
        Guest.Handle(PageFault, ProgramGuest.Routines);
    }

    private void AddSteps()
    {
        Program("begins: the first page of its code", ["code"], a => a.nop());
        Program("reads data; a page beside it that was used before comes along", ["data", "beside"], a => a.mov(eax, __dword_ptr[Linear("data")]));
        Program("writes to the data", ["data"], a => a.mov(__dword_ptr[Linear("data")], eax));
        Program("reads a page that must not be written to yet", ["copied"], a => a.mov(eax, __dword_ptr[Linear("copied")]));
        Program("writes to it: the kernel gets its page fault, and allows it", ["copied"], a => a.mov(__dword_ptr[Linear("copied")], eax));
        Program("writes to a page that is not there: again the kernel's fault", ["absent"], a => a.mov(__dword_ptr[Linear("absent")], eax));
        Program("calls code that shows the task register once", ["guarded"], a => Call(a, "guarded"));
        Program("calls code that does so in five places", ["refused"], a => Call(a, "refused"));
        Program("writes code into a page", ["made"], a => a.mov(__byte_ptr[Linear("made") + 1], 0xC3));
        Program("calls what it has written", ["made"], a => Call(a, "made"));
        Program("writes to that code", ["made"], a => a.mov(__byte_ptr[Linear("made") + 1], 0xC3));
        Kernel("gives the data another frame: INVLPG", ["data"], a =>
        {
            SetEntry(a, "data", OtherFrame | Data);
            a.invlpg(__[Linear("data")]);
        });
        Program("reads the data, which are others now", ["data"], a => a.mov(eax, __dword_ptr[Linear("data")]));
        Kernel("clears an accessed flag and tells nobody", ["beside"], a =>
            SetEntry(a, "beside", Page("beside").Frame | Page("beside").Flags & ~Accessed));
        Program("reads that page at once: as with a TLB, nobody notices", ["beside"], a => a.mov(eax, __dword_ptr[Linear("beside")]));
        Program("a second later does nothing: the tables were compared", ["beside"], a => a.nop(), s_untilCompared);
        Kernel("switches to another address space", [], a => Load(a, ProgramGuest.SecondSpace | KeepTranslations));
        Program("reads the data there", ["data"], a => a.mov(eax, __dword_ptr[Linear("data")]));
        Kernel("switches back, and forgets nothing", [], a => Load(a, ProgramGuest.FirstSpace | KeepTranslations));
        Kernel("loads CR3 so that all translations of the space go", [], a => Load(a, ProgramGuest.FirstSpace));
        Program("reads the data: all comes anew", ["data"], a => a.mov(eax, __dword_ptr[Linear("data")]));
    }

    private static void Call(Assembler a, string page)
    {
        a.mov(eax, Linear(page));
        a.call(rax);
    }

    private static void Load(Assembler a, ulong root)
    {
        a.mov(rax, root);
        a.mov(cr3, rax);
    }

    private static void SetEntry(Assembler a, string page, ulong value)
    {
        a.mov(rax, value);
        a.mov(__qword_ptr[(int)ProgramGuest.EntryAddress(Page(page).Linear)], rax);
    }

    private void Program(string what, string[] pages, Action<Assembler> emit, TimeSpan wait = default)
    {
        ProgramPage code = Page("code");
        ulong at = _program;
        _program = Guest.Place(code.Frame + at - code.Linear, at, a =>
        {
            emit(a);
            a.syscall();
        });
        _steps.Add(new GuestStep("program", what, at, pages, wait));
    }

    private void Kernel(string what, string[] pages, Action<Assembler> emit)
    {
        ulong at = _kernel;
        _kernel = Guest.Place(at, at, a =>
        {
            emit(a);
            a.jmp(ProgramGuest.Entry);
        });
        _steps.Add(new GuestStep("kernel", what, at, pages));
    }

    public void Dispose() => Guest.Dispose();
}
