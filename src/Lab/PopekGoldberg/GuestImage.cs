using Bunraku.Engines;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>
/// Memory and start state of the guest in which probes run: 64-bit mode, linear addresses equal to physical ones. Its tables exist in three
/// copies ("banks"): two for the two machine states, and one that loading instructions may switch to.
/// </summary>
internal sealed class GuestImage(CpuModel model)
{
    public const ulong MemorySize = 2 << 20;
    /// <summary>
    /// Port by which a probe's code says that it is done; the only one open to every level. A software interrupt would not do: an engine may emulate a
    /// subset of the instructions.
    /// </summary>
    public const byte DonePort = 0xEC;
    private const uint TssLimit = 0x68 + 0x100 / 8;
    /// <summary>Handlers, <see cref="StubSize"/> bytes apart: OUT to the port that is the vector's number.</summary>
    public const ulong Stubs = 0x8000;
    public const int StubSize = 16, Vectors = 256;
    /// <summary>Top of the stack on which all handlers start.</summary>
    public const ulong HandlerStack = 0xA000;
    public const ulong Code = 0x4_0000, Scratch = 0x5_0000;
    /// <summary>A linear page that is mapped to one frame, and to the other once its page-table entry has been changed.</summary>
    public const ulong Watched = 0x6_0000, WatchedFrame = 0x6_1000, OtherFrame = 0x6_2000;

    private const int Banks = 3, OtherBank = 2;
    private static ulong Bank(int n) => 0x1_0000 + (ulong)n * 0x1_0000;
    private static ulong Gdt(int n) => Bank(n);
    private static ulong Idt(int n) => Bank(n) + 0x1000;
    private static ulong Tss(int n) => Bank(n) + 0x2000;
    private static ulong Ldt(int n) => Bank(n) + 0x2800;
    private static ulong Root(int n) => Bank(n) + 0x3000;
    private const int PageTable = 0x3000; // behind the root

    // The GDT has one set of descriptors for each state, at the selectors of Linux where it has such.
    private const int SetSize = 0x100;
    private const ushort KernelCode = 0x10, KernelData = 0x18, UserCode32 = 0x23, UserData = 0x2B, UserCode = 0x33, Conforming = 0x38, TssSelector = 0x40,
        LdtSelector = 0x50,
        Code1 = 0x61, Data1 = 0x69, KernelCode32 = 0x70, Code132 = 0x79,
        // Each register has a descriptor of its own, so that a selector says where it comes from.
        DsData = 0x83, EsData = 0x8B, FsData = 0x93, GsData = 0x9B;
    private const uint CodeAttributes = 0xA09B, Code32Attributes = 0xC09B, DataAttributes = 0xC093;

    /// <summary>Address of the page-table entry of <see cref="Watched"/>.</summary>
    public static ulong WatchedEntry(int state) => Root(state) + PageTable + (Watched >> 12) * 8;
    public const ulong WatchedEntryValue = OtherFrame | 7;

    /// <summary>Writes everything into the guest's memory.</summary>
    public static void Write(GuestMemory memory)
    {
        for (int n = 0; n < Banks; n++) WriteBank(memory, n);
        var stubs = new byte[Vectors * StubSize];
        for (int vector = 0; vector < Vectors; vector++)
            (stubs[vector * StubSize], stubs[vector * StubSize + 1], stubs[vector * StubSize + 2]) = (0xE6 /* OUT imm8, AL */, (byte)vector, 0xF4 /* HLT */);
        memory.Write(Stubs, stubs);
        memory.TryWrite(WatchedFrame, 1ul);
        memory.TryWrite(OtherFrame, 2ul);
    }

    private static void WriteBank(GuestMemory memory, int n)
    {
        var gdt = new ulong[0x400 / 8];
        for (int set = 0; set < Banks; set++)
        {
            void Flat(ushort selector, uint attributes) => gdt[(set * SetSize + selector) / 8] = Descriptor(attributes | (selector & 3u) << 5);
            Flat(KernelCode, CodeAttributes);
            Flat(KernelData, DataAttributes);
            Flat(UserCode32, Code32Attributes);
            Flat(UserData, DataAttributes);
            Flat(UserCode, CodeAttributes);
            Flat(Conforming, CodeAttributes | 4);
            Flat(Code1, CodeAttributes);
            foreach (ushort data in (ReadOnlySpan<ushort>)[Data1, DsData, EsData, FsData, GsData]) Flat(data, DataAttributes);
            Flat(KernelCode32, Code32Attributes);
            Flat(Code132, Code32Attributes);
            // Those of the other set are free to be loaded, the current ones are busy.
            uint tss = set == OtherBank ? 0x89u : 0x8B;
            gdt[(set * SetSize + TssSelector) / 8] = System(Tss(set), TssLimit, tss);
            gdt[(set * SetSize + LdtSelector) / 8] = System(Ldt(set), 15, 0x82);
        }
        Put(memory, Gdt(n), gdt);

        var idt = new ulong[Vectors * 2];
        for (int vector = 0; vector < Vectors; vector++)
        {
            ulong handler = Stubs + (ulong)(vector * StubSize), dpl = vector is 3 or 4 ? 3ul : 0;
            idt[vector * 2] = (handler & 0xFFFF) | (ulong)KernelCode << 16 | 1ul << 32 /* IST1 */ | (0x8Eul | dpl << 5) << 40 | (handler >> 16 & 0xFFFF) << 48;
        }
        Put(memory, Idt(n), idt);

        memory.TryWrite(Tss(n) + 4, HandlerStack);
        memory.TryWrite(Tss(n) + 36, HandlerStack);
        memory.TryWrite(Tss(n) + 0x66, (ushort)0x68); // I/O permission bitmap
        var ports = new byte[0x100 / 8 + 1];
        Array.Fill(ports, (byte)0xFF);
        ports[DonePort / 8] = unchecked((byte)~(1 << DonePort % 8));
        memory.Write(Tss(n) + 0x68, ports);
        var table = new ulong[512];
        for (ulong page = 0; page < 512; page++) table[page] = page << 12 | 7;
        table[Watched >> 12] = WatchedFrame | 7;
        for (ulong level = 0; level < PageTable; level += 0x1000) memory.TryWrite(Root(n) + level, Root(n) + level + 0x1000 | 7);
        Put(memory, Root(n) + PageTable, table);
    }

    private static void Put(GuestMemory memory, ulong address, ulong[] values) =>
        memory.Write(address, global::System.Runtime.InteropServices.MemoryMarshal.AsBytes(values.AsSpan()));

    private static ulong Descriptor(uint attributes) => 0x000F_0000_0000_FFFF | (ulong)(attributes & 0xF0FF) << 40;

    private static ulong System(ulong start, uint limit, uint type) => limit | (start & 0xFF_FFFF) << 16 | (ulong)type << 40;

    private static ushort OfSet(int state, ushort selector) => (ushort)(selector + state * SetSize);

    private static ushort CodeSelector(in Setting at, int bitness) =>
        OfSet(at.State,
            at.Level switch
            {
                0 => bitness == 64 ? KernelCode : KernelCode32,
                1 => bitness == 64 ? Code1 : Code132,
                _ => bitness == 64 ? UserCode
            : UserCode32
            });

    private static ushort StackSelector(in Setting at) => OfSet(at.State, at.Level switch { 0 => KernelData, 1 => Data1, _ => UserData });

    /// <summary>What a probe that ends at <paramref name="after"/> starts with.</summary>
    public static ProbeInput Input(in Setting at, int bitness, ulong after) => new(Scratch, after)
    {
        Code = CodeSelector(at, bitness),
        Stack = StackSelector(at with { State = 1 - at.State }),
        FarCode = Conforming,
        UserData = UserData,
        KernelData = KernelData,
        OtherLdt = OfSet(OtherBank, LdtSelector),
        OtherTss = OfSet(OtherBank, TssSelector),
        OtherGdt = Gdt(OtherBank),
        OtherIdt = Idt(OtherBank),
        OtherRoot = Root(OtherBank),
        WatchedPage = Watched,
    };

    /// <summary>The machine state of <paramref name="at"/>, about to execute at <see cref="Code"/>.</summary>
    public void Prepare(CpuState s, in Setting at, int bitness)
    {
        int n = at.State;
        bool other = n != 0;
        uint dpl = (uint)at.Level << 5;
        s.Rip = Code;
        s.Rflags = (other ? 0x002u : 0x202) | (at.SingleStep ? SystemState.TrapFlag : 0);
        s.Cr0 = other ? 0x8005_003B : 0x8005_0033ul; // PG AM WP NE ET MP PE, TS in one state
        s.Cr2 = other ? 0x5555_5000ul : 0x3333_3000;
        s.Cr3 = Root(n);
        s.Cr4 = 0x620ul | (other ? 0x80ul : 0); // PAE OSFXSR OSXMMEXCPT, PGE in one state
        if (model.Has(CpuFeature.Xsave)) s.Cr4 |= 1 << 18;
        if (at.Umip) s.Cr4 |= 1 << 11;
        s.Cr8 = 0;
        s.Efer = 0xD01; // NXE LMA LME SCE
        s.Xcr0 = !model.Has(CpuFeature.Xsave) ? 1u : other || !model.Has(CpuFeature.Avx) ? 3u : 7;
        s.Cs = new SegmentState(CodeSelector(at, bitness), 0, uint.MaxValue, (bitness == 64 ? CodeAttributes : Code32Attributes) | dpl);
        s.Ss = new SegmentState(StackSelector(at), 0, uint.MaxValue, DataAttributes | dpl);
        SegmentState Segment(ushort selector, ulong start = 0) => new(OfSet(n, selector), start, uint.MaxValue, DataAttributes | 3 << 5);
        (s.Ds, s.Es, s.Fs, s.Gs) =
            (Segment(DsData), Segment(EsData), Segment(FsData, 0x7_0000 + (ulong)n * 0x1000), Segment(GsData, 0x7_8000 + (ulong)n * 0x1000));
        s.Ldtr = new SegmentState(OfSet(n, LdtSelector), Ldt(n), 15, 0x82);
        s.Tr = new SegmentState(OfSet(n, TssSelector), Tss(n), TssLimit, 0x8B);
        (s.GdtrBase, s.GdtrLimit) = (Gdt(n), (ushort)(other ? 0x3BF : 0x3FF));
        (s.IdtrBase, s.IdtrLimit) = (Idt(n), (ushort)(other ? 0xEFF : 0xFFF));
        for (int i = 0; i < 4; i++) s.Dr[i] = 0x1000ul * (ulong)(i + 1 + 8 * n);
        s.Dr6 = other ? 0xFFFF_4FF0 : 0xFFFF_0FF0;
        s.Dr7 = other ? 0x2_0400u : 0x400;
        Array.Clear(s.Xsave);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(0), (ushort)0x37F);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(24), 0x1F80u);
        BitConverter.TryWriteBytes(s.Xsave.AsSpan(512), 3ul);
        s.Msrs.Clear();
        s.Msrs[Msr.Star] = (ulong)KernelCode << 32 | (ulong)(UserCode32 - 3) << 48;
        s.Msrs[Msr.Lstar] = 0x8888_0000 + (ulong)n * 0x1000;
        s.Msrs[Msr.KernelGsBase] = 0x9999_0000 + (ulong)n * 0x1000;
        if (model.Has(CpuFeature.Rdtscp)) s.Msrs[Msr.TscAux] = 5 + (ulong)n;
        s.InterruptShadow = s.NmiBlocked = false;
    }
}
