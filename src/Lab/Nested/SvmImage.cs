using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Lab.Nested;

/// <summary>
/// Hypervisors on SVM. Each emulates CPUID for its guest, and SVM where the guest is a hypervisor itself: then it runs the guest's guest by a VMCB of its
/// own, and copies what an exit leaves there to the guest's. Around VMRUN they do what hypervisors do: CLGI, VMLOAD, VMSAVE and STGI. With virtual GIF
/// and virtualized VMLOAD and VMSAVE the processor does those four for the guest.
/// </summary>
/// <remarks>AMD APM vol. 2, "Secure Virtual Machine"; layout in its appendix "Layout of VMCB".</remarks>
internal sealed class SvmImage : HypervisorImage
{
    private const uint HostSaveOffset = 0x1_0000, MsrBitmapOffset = 0x1_4000, GifOffset = 0x8200;
    private const uint HostSaveArea = 0xC001_0117, SavedBytes = 0x298, SaveArea = 0x400;

    // Fields of a VMCB.
    private const uint Intercepts1 = 0xC, Intercepts2 = 0x10, MsrpmBase = 0x48, Asid = 0x58, VirtualInterrupt = 0x60, InterruptShadow = 0x68, ExitCode = 0x70,
        ExitInfo1 = 0x78, ExitInfo2 = 0x80, ExitIntInfo = 0x88, NestedControl = 0x90, EventInjection = 0xA8, NestedCr3 = 0xB0, VirtualExtensions = 0xB8,
        NextRip = 0xC8, Cs = 0x410, Gdtr = 0x460, Idtr = 0x480, Tr = 0x490, Efer = 0x4D0, Cr4 = 0x548, Cr3 = 0x550, Cr0 = 0x558, Dr7 = 0x560, Dr6 = 0x568,
        Rflags = 0x570, Rip = 0x578, Rsp = 0x5D8, Rax = 0x5F8, GuestPat = 0x668;
    private const ulong Svme = 0x1000, VirtualGif = 1 << 9, VirtualGifEnable = 1 << 25, VirtualLoadSave = 2;

    private readonly bool _assisted;

    /// <param name="levels">See the base.</param>
    /// <param name="assisted">With virtual GIF, and VMLOAD and VMSAVE virtualized.</param>
    public SvmImage(int levels, bool assisted) : base(levels)
    {
        _assisted = assisted;
        for (int level = 1; level < levels; level++) Write(level);
    }

    public override string Model => "max,+svm";

    public override string NameOf(ulong reason) => SvmNames.Of((SvmExit)reason).ToUpperInvariant();

    protected override void Prepare(CpuState state) => state.Efer |= Svme;

    private void Write(int level)
    {
        uint window = Window(level), own = window + OwnOffset;
        bool isOuter = level + 1 < Levels;
        WriteTables(window + SecondStageOffset, 7, 7);
        WriteBlock(own, window, asid: 1, Window(level + 1));
        bool assists = isOuter && _assisted;
        uint intercepted = 1 | (!isOuter || assists ? 0u : 0x3C); // VMRUN; VMLOAD, VMSAVE, STGI, CLGI
        Memory.TryWrite(own + Intercepts1, 1u << 18 | (isOuter ? 1u << 28 : 0)); // CPUID; MSRs by the bitmap
        Memory.TryWrite(own + Intercepts2, intercepted);
        if (assists)
        {
            Memory.TryWrite(own + VirtualInterrupt, VirtualGif | VirtualGifEnable);
            Memory.TryWrite(own + VirtualExtensions, VirtualLoadSave);
        }
        // VM_HSAVE_PA: the third range of the bitmap's two bits for each MSR begins at C001_0000.
        Memory.TryWrite(window + MsrBitmapOffset + 0x1000 + (HostSaveArea & 0x1FFF) / 4, (byte)(3 << (int)(HostSaveArea % 4 * 2)));
        if (isOuter) WriteBlock(window + InnerOffset, window, asid: 2, Window(level + 2));
        Place(window, a => Hypervisor(a, level, isOuter));
    }

    /// <summary>A VMCB for 64-bit code.</summary>
    private void WriteBlock(uint at, uint window, uint asid, uint entry)
    {
        Memory.TryWrite<ulong>(at + MsrpmBase, window + MsrBitmapOffset);
        Memory.TryWrite(at + Asid, asid);
        Memory.TryWrite(at + NestedControl, SvmState.NestedPaging);
        Memory.TryWrite<ulong>(at + NestedCr3, window + SecondStageOffset);
        foreach (uint segment in (uint[])[0x400, 0x420, 0x430, 0x440, 0x450]) Segment(segment, DataSelector, Rights(DataRights), uint.MaxValue, 0);
        Segment(Cs, CodeSelector, Rights(CodeRights), uint.MaxValue, 0);
        Segment(Gdtr, 0, 0, GdtLimit, Gdt);
        Segment(Idtr, 0, 0, IdtLimit, Idt);
        Segment(Tr, TssSelector, TssRights, TssLimit, Tss);
        (uint, ulong)[] fields = [(Efer, 0xD01 | Svme), (Cr4, 0x620), (Cr3, Tables), (Cr0, 0x8001_0033), (Dr7, ResetDr7), (Dr6, 0xFFFF_0FF0), (Rflags, 2),
            (Rip, entry), (Rsp, entry + StackOffset), (GuestPat, ResetPat)];
        foreach ((uint offset, ulong value) in fields) Memory.TryWrite(at + offset, value);

        static ulong Rights(uint attributes) => attributes & 0xFF | attributes >> 4 & 0xF00;

        void Segment(uint offset, ulong selector, ulong attributes, ulong limit, ulong start)
        {
            Memory.TryWrite(at + offset, selector | attributes << 16 | limit << 32);
            Memory.TryWrite(at + offset + 8, start);
        }
    }

    // The assembler has no methods for those with an address in RAX.
    private static void Vmrun(Assembler a) => a.db(0x0F, 0x01, 0xD8);
    private static void Vmload(Assembler a) => a.db(0x0F, 0x01, 0xDA);
    private static void Vmsave(Assembler a) => a.db(0x0F, 0x01, 0xDB);

    private void Hypervisor(Assembler a, int level, bool isOuter)
    {
        uint window = Window(level), own = window + OwnOffset;
        Label enter = a.CreateLabel(), skip = a.CreateLabel();
        a.mov(ecx, HostSaveArea);
        a.mov(eax, window + HostSaveOffset);
        a.xor(edx, edx);
        a.wrmsr();
        a.Label(ref enter);
        a.clgi();
        GiveBack(a, window, withRax: false);
        a.mov(rax, (ulong)own);
        Vmload(a);
        Vmrun(a);
        Vmsave(a);
        Keep(a, window, withRax: false);
        a.stgi();
        a.mov(rbx, __qword_ptr[own + ExitCode]);
        var emulated = new List<(SvmExit Code, Action Emulate)> { (SvmExit.Cpuid, () => Answer(a, window, level, __qword_ptr[own + Rax])) };
        if (isOuter)
        {
            emulated.Add((SvmExit.Vmrun, () => EmulateEntry(a, window, enter)));
            emulated.Add((SvmExit.Vmload, () => EmulateLoad(a, own)));
            emulated.Add((SvmExit.Vmsave, () => EmulateSave(a, own)));
            emulated.Add((SvmExit.Stgi, () => a.mov(__byte_ptr[window + GifOffset], 1)));
            emulated.Add((SvmExit.Clgi, () => a.mov(__byte_ptr[window + GifOffset], 0)));
            emulated.Add((SvmExit.Msr, () => { })); // the guest's host save area: nothing is kept there
        }
        Label[] places = [.. emulated.Select(_ => a.CreateLabel())];
        for (int n = 0; n < places.Length; n++)
        {
            a.cmp(ebx, (uint)emulated[n].Code);
            a.je(places[n]);
        }
        a.ud2(); // nothing else exits, unless the experiment is wrong
        for (int n = 0; n < places.Length; n++)
        {
            a.Label(ref places[n]);
            emulated[n].Emulate();
            a.jmp(skip);
        }
        a.Label(ref skip);
        Skip(a, own);
        a.jmp(enter);
    }

    /// <summary>RIP goes behind the intercepted instruction.</summary>
    private static void Skip(Assembler a, uint own)
    {
        a.mov(rax, __qword_ptr[own + NextRip]);
        a.mov(__qword_ptr[own + Rip], rax);
    }

    /// <summary>VMLOAD: the registers are those of the guest until the next entry, which takes them from its own VMCB.</summary>
    private static void EmulateLoad(Assembler a, uint own)
    {
        a.mov(rax, __qword_ptr[own + Rax]);
        Vmload(a);
        a.mov(rax, (ulong)own);
        Vmsave(a);
    }

    private static void EmulateSave(Assembler a, uint own)
    {
        a.mov(rax, __qword_ptr[own + Rax]);
        Vmsave(a);
    }

    /// <summary>VMRUN, up to the exit of the guest's guest: from the guest's VMCB to the own one and back.</summary>
    private void EmulateEntry(Assembler a, uint window, Label enter)
    {
        uint own = window + OwnOffset, inner = window + InnerOffset;
        Skip(a, own); // where the guest goes on after the exit
        a.mov(rbx, __qword_ptr[own + Rax]);
        for (uint word = 0; word < 6; word++)
        {
            a.mov(eax, __dword_ptr[rbx + word * 4]);
            a.or(eax, __dword_ptr[own + word * 4]);
            a.mov(__dword_ptr[inner + word * 4], eax);
        }
        foreach (uint field in (uint[])[EventInjection, InterruptShadow])
        {
            a.mov(rax, __qword_ptr[rbx + field]);
            a.mov(__qword_ptr[inner + field], rax);
        }
        a.lea(rsi, __[rbx + SaveArea]);
        a.mov(edi, inner + SaveArea);
        a.mov(ecx, SavedBytes / 8);
        a.rep.movsq();
        a.clgi();
        GiveBack(a, window, withRax: false);
        a.mov(rax, (ulong)inner);
        Vmrun(a);
        Keep(a, window, withRax: false);
        a.stgi();
        a.mov(rbx, __qword_ptr[own + Rax]);
        foreach (uint field in (uint[])[ExitCode, ExitInfo1, ExitInfo2, ExitIntInfo, NextRip, InterruptShadow, EventInjection])
        {
            a.mov(rax, __qword_ptr[inner + field]);
            a.mov(__qword_ptr[rbx + field], rax);
        }
        a.mov(esi, inner + SaveArea);
        a.lea(rdi, __[rbx + SaveArea]);
        a.mov(ecx, SavedBytes / 8);
        a.rep.movsq();
        // #VMEXIT clears the guest's GIF.
        if (_assisted) a.and(__qword_ptr[own + VirtualInterrupt], ~(int)VirtualGif);
        else a.mov(__byte_ptr[window + GifOffset], 0);
        a.jmp(enter);
    }
}
