using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.DeviceFuzz;

/// <summary>
/// A hypervisor of a few instructions and what it works on: control blocks, tables of both stages and code of its guest, all nearly right. Chance then makes
/// some of it wrong.
/// </summary>
internal sealed class HostileHypervisor(GuestMemory memory, bool isVmx, CpuModel model)
{
    private const ulong Revision = 0x42_0001, Valid = 1ul << 31;
    private const uint AfterExit = NestedLayout.Code + 0x800;
    private const uint MostEntries = 6; // of the guest, in one round

    private readonly byte[] _open = new byte[NestedLayout.OpenSize];
    private readonly List<(uint Field, ulong Value)> _fields = [];

    private byte[]? _fixed; // what does not change; guests of guests may reach it, too

    /// <summary>Writes what does not change.</summary>
    public void Prepare()
    {
        if (_fixed == null)
        {
            NestedLayout.WriteFixed(memory);
            memory.Write(NestedLayout.Code, GuestParts.Assemble(64, NestedLayout.Code, isVmx ? Intel : Amd, out _));
            if (isVmx) memory.Write(AfterExit, GuestParts.Assemble(64, AfterExit, IntelAfterExit, out _));
            _fixed = new byte[NestedLayout.FixedEnd];
            memory.Read(0, _fixed);
        }
        memory.Write(0, _fixed);
    }

    /// <summary>The state in which a round begins.</summary>
    public CpuState Start()
    {
        CpuState s = NestedLayout.StartAt(NestedLayout.Code, NestedLayout.Stack);
        if (isVmx) s.Cr4 |= 0x2000;
        else s.Efer |= 0x1000;
        if (!isVmx) s.Svm = new SvmState { HostSaveArea = NestedLayout.HostSave };
        return s;
    }

    /// <summary>Makes the control blocks and tables anew, and then some of it wrong.</summary>
    public void Write(Random random)
    {
        Array.Clear(_open);
        _fields.Clear();
        Tables(random);
        GuestProgram(random);
        if (isVmx) Vmx(random);
        else Svm(random);
        for (int n = random.Next(4); n > 0; n--) Spoil(random);
        memory.Write(NestedLayout.Open, _open);
    }

    // ---- tables and code of the guest

    private void Tables(Random random)
    {
        // Second stage: EPT or nested tables, both with four levels; the first MiBs by pages of 4 KiB.
        ulong rights = isVmx ? 0x407ul : 7ul, leaf = isVmx ? 0x407ul | 6 << 3 : 7ul; // with mode-based execute control, too
        Set(NestedLayout.SecondStage, NestedLayout.SecondStage + 0x1000 | rights);
        Set(NestedLayout.SecondStage + 0x1000, NestedLayout.SecondStage + 0x2000 | rights);
        for (uint n = 0; n < 2; n++) Set(NestedLayout.SecondStage + 0x2000 + n * 8, NestedLayout.SecondStage + 0x3000 + n * 0x1000 | rights);
        for (uint n = 2; n < 512; n++) Set(NestedLayout.SecondStage + 0x2000 + n * 8, (ulong)n << 21 | leaf | 1 << 7);
        for (uint n = 0; n < 1024; n++) Set(NestedLayout.SecondStage + 0x3000 + n * 8, (ulong)n << 12 | leaf);
        // The guest's own.
        Set(NestedLayout.GuestTables, NestedLayout.GuestTables + 0x1000 | 7);
        Set(NestedLayout.GuestTables + 0x1000, NestedLayout.GuestTables + 0x2000 | 7);
        Set(NestedLayout.GuestTables + 0x2000, NestedLayout.GuestTables + 0x3000 | 7);
        for (uint n = 1; n < 512; n++) Set(NestedLayout.GuestTables + 0x2000 + n * 8, (ulong)n << 21 | 0x87);
        for (uint n = 0; n < 512; n++) Set(NestedLayout.GuestTables + 0x3000 + n * 8, (ulong)n << 12 | 7);
        // The guest does not write to tables by itself, nor to the hypervisor's: which of the old and the new entries a processor then uses is its own affair.
        for (uint at = NestedLayout.SecondStage; at < NestedLayout.GuestCode; at += 0x1000) Set(NestedLayout.GuestTables + 0x3000 + (at >> 12) * 8, at | 5);
        for (uint at = 0; at < NestedLayout.FixedEnd; at += 0x1000) Set(NestedLayout.GuestTables + 0x3000 + (at >> 12) * 8, at | 5);
        for (uint at = 0; at < NestedLayout.FixedEnd; at += 0x1000) Set(NestedLayout.SecondStage + 0x3000 + (at >> 12) * 8, at | leaf & ~2ul);
        for (uint at = NestedLayout.SecondStage; at < NestedLayout.GuestTables; at += 0x1000)
            Set(NestedLayout.SecondStage + 0x3000 + (at >> 12) * 8, at | leaf & ~2ul);
        // EPT lets the guest's own tables be read alone, so that their accessed and dirty flags cannot be set where they are not. (Nested
        // page tables refuse that altogether.)
        if (isVmx && random.Next(4) == 0)
        {
            for (uint at = NestedLayout.GuestTables; at < NestedLayout.GuestTables + 0x4000; at += 0x1000)
                Set(NestedLayout.SecondStage + 0x3000 + (at >> 12) * 8, at | leaf & ~2ul);
            bool set = random.Next(4) != 0;
            for (uint at = NestedLayout.GuestTables; set && at < NestedLayout.GuestTables + 0x4000; at += 8)
            {
                if ((Get(at) & 1) != 0) Set(at, Get(at) | (random.Next(8) == 0 ? 0x20u : 0x60u));
            }
        }
        // Entries that differ: none, other rights, loops into themselves, beyond memory, reserved bits.
        for (int n = random.Next(12); n > 0; n--)
        {
            uint at = (random.Next(2) == 0 ? NestedLayout.SecondStage : NestedLayout.GuestTables) + (uint)random.Next(0x4000 / 8) * 8;
            Set(at, random.Next(5) switch
            {
                0 => 0,
                1 => Get(at) & ~(1ul << random.Next(12)),
                2 => Get(at) | 1ul << random.Next(64),
                3 => at & ~0xFFFul | 7,
                _ => Interesting(random) & ~0xFFFul | Get(at) & 0xFFF,
            });
        }
        Set(NestedLayout.GuestGdt + 8, GuestParts.CodeDescriptor64);
        Set(NestedLayout.GuestGdt + 16, GuestParts.DataDescriptor);
        for (uint vector = 0; vector < 256; vector++)
            Set(NestedLayout.GuestIdt + vector * 16, (NestedLayout.GuestCode + 0x800ul & 0xFFFF) | 8ul << 16 | 0x8Eul << 40
                | (ulong)((NestedLayout.GuestCode + 0x800) >> 16) << 48);
    }

    /// <summary>Instructions that a hypervisor may want to see, and what hits memory; pieces of them follow each other in any order.</summary>
    private static readonly byte[][] s_pieces =
    [
        [0x0F, 0xA2], [0xF4], [0xF3, 0x90], [0x0F, 0x31], [0x0F, 0x01, 0xF9], // CPUID HLT PAUSE RDTSC RDTSCP
        [0x0F, 0x33], [0x0F, 0x08], [0x0F, 0x09], // RDPMC INVD
        [0x0F, 0x01, 0xC1], [0x0F, 0x01, 0xD9], // VMCALL VMMCALL
        [0x0F, 0x01, 0xD8], [0x0F, 0x01, 0xDA], [0x0F, 0x01, 0xDB], [0x0F, 0x01, 0xDC], [0x0F, 0x01, 0xDD], // VMRUN…
        [0x0F, 0x01, 0xC2], [0x0F, 0x01, 0xC3], [0x0F, 0x01, 0xC4], [0x0F, 0x01, 0xD4], // VMLAUNCH VMRESUME VMXOFF VMFUNC
        [0x0F, 0x20, 0xC0], [0x0F, 0x22, 0xC0], [0x0F, 0x20, 0xD8], [0x0F, 0x22, 0xD8], [0x0F, 0x20, 0xE0], [0x0F, 0x22, 0xE0], // MOV CR0, CR3, CR4
        [0x44, 0x0F, 0x20, 0xC0], [0x44, 0x0F, 0x22, 0xC0], [0x0F, 0x06], [0x0F, 0x01, 0xF0], [0x0F, 0x21, 0xF8], [0x0F, 0x23, 0xC0], // CR8 CLTS LMSW DR
        [0xB9, 0x80, 0, 0, 0xC0], [0xB9, 0x74, 1, 0, 0], [0xB9, 0x10, 0, 0, 0], [0x0F, 0x32], [0x0F, 0x30], // ECX, RDMSR WRMSR
        [0xE4, 0x40], [0xE6, 0x80], [0xEC], [0xEF], [0xF3, 0x6E], [0xF3, 0x6D], [0xF3, 0xAB], [0xF3, 0xA5], // IN OUT INS OUTS STOS MOVS
        [0xCC], [0xCD, 0x20], [0xCD, 0x80], [0xF1], [0x0F, 0x0B], [0x9C], [0x9D], [0xFA], [0xFB], [0x48, 0xCF], [0x0F, 0x05], // INT3 INT n … IRETQ SYSCALL
        [0x0F, 0x00, 0xC0], [0x0F, 0x00, 0xC8], [0x0F, 0x00, 0xD0], [0x0F, 0x00, 0xD8], // SLDT STR LLDT LTR
        [0x0F, 0x01, 0x04, 0x24], [0x0F, 0x01, 0x14, 0x24], // SGDT LGDT
        [0x8B, 0x03], [0x89, 0x03], [0x48, 0x8B, 0x06], [0x48, 0x89, 0x07], [0xF0, 0x0F, 0xC1, 0x03], [0x0F, 0x01, 0x3B], // loads, stores, XADD, INVLPG
        [0x48, 0xFF, 0xC3], [0x48, 0x81, 0xC3, 0, 0x10, 0, 0], [0x48, 0x81, 0xC7, 0, 0x10, 0, 0], // INC ADD
        [0xFF, 0xE3], [0x50], [0x58], [0xC3], // JMP PUSH POP RET
        [0x0F, 0x78, 0xD8], [0x0F, 0x79, 0xD8], [0x0F, 0xC7, 0x33], [0xF3, 0x0F, 0xC7, 0x33], // VMREAD …
        [0x66, 0x0F, 0x38, 0x82, 0x03], [0x66, 0x0F, 0x38, 0x80, 0x03], // … INVPCID
        [0x0F, 0x01, 0xC8], [0x0F, 0x01, 0xC9], [0x0F, 0x01, 0xD1], // MONITOR MWAIT XSETBV
        [0x0F, 0xC7, 0xF0], [0x0F, 0xC7, 0xF8], [0x0F, 0xAE, 0x03], // RDRAND FXSAVE
        [0x8B, 0x83, 0x80, 0, 0, 0], [0x89, 0x83, 0x80, 0, 0, 0], [0x89, 0x83, 0xB0, 0, 0, 0], [0x89, 0x87, 0x00, 3, 0, 0], // registers of an APIC
        [0xB8, 0x51, 0, 4, 0], [0x31, 0xC0], [0x31, 0xD2], [0xB9, 0x08, 8, 0, 0], [0xB9, 0x0B, 8, 0, 0], [0xB9, 0x3F, 8, 0, 0], // … self-IPI, x2APIC
        [0xB9, 0x30, 8, 0, 0], [0xB9, 0x39, 8, 0, 0], [0xB8, 0x51, 0, 0, 0], [0xBA, 1, 0, 0, 0], // … interrupt command, current count, EAX, EDX
        [0xEB, 0xF0], [0x75, 0xE0], [0x66, 0x0F, 0x6F, 0x03], [0xF3, 0x0F, 0x7F, 0x07], [0xC8, 8, 0, 0], [0xC9], // jumps back, SSE, ENTER LEAVE
    ];

    private void GuestProgram(Random random)
    {
        foreach (uint start in (uint[])[NestedLayout.GuestCode, NestedLayout.GuestCode + 0x800])
        {
            for (uint at = start; at < start + 0x180;)
            {
                if (random.Next(16) == 0)
                {
                    _open[at++ - NestedLayout.Open] = (byte)random.Next(256);
                    continue;
                }
                byte[] piece = s_pieces[random.Next(s_pieces.Length)];
                piece.CopyTo(_open, at - NestedLayout.Open);
                at += (uint)piece.Length;
            }
        }
    }

    // ---- control blocks

    private void Vmx(Random random)
    {
        foreach (uint region in (uint[])[NestedLayout.Operation, NestedLayout.Vmcs, NestedLayout.OtherVmcs]) Set(region, Revision);
        if (random.Next(8) == 0) Set(NestedLayout.OtherVmcs, Revision | Valid);
        ulong secondary = 1 << 1 | 1 << 7 | RandomBits(random, 0x037F_FFFF), pin = 0x16 | RandomBits(random, 0x69), exit = 0x3_6FFF | 3 << 20;
        if ((pin & 8) == 0) pin &= ~0x20ul;
        if (random.Next(2) == 0) exit |= RandomBits(random, 0x7C_8000);
        ulong primary = 0x8400_6172 | RandomBits(random, 0x7BF9_9E8C);
        if ((pin & 0x20) == 0) primary &= ~(1ul << 22);
        bool ept = random.Next(4) != 0, paged = !ept || random.Next(4) != 0;
        if (!ept) secondary &= ~(1ul << 1 | 1 << 7 | 1 << 13 | 1 << 17);
        if (random.Next(2) == 0) Apic(random, ref pin, ref primary, ref secondary, ref exit);
        Put(0x4000, pin);
        Put(0x4002, primary);
        Put(0x401E, secondary & Allowed(VmxMsr.Secondary));
        Put(0x400C, exit & ~(1ul << 22) | ((pin & 0x40) != 0 ? exit & 1 << 22 : 0));
        Put(0x4012, paged ? 0x11FF | 1 << 9 | 1 << 15 : 0x11FFul | 1 << 15);
        Put(0, (ulong)random.Next(1, 4));
        Put(0x2000, NestedLayout.Bitmaps);
        Put(0x2002, NestedLayout.Bitmaps + 0x1000);
        Put(0x2004, NestedLayout.Zeros);
        Put(0x200E, NestedLayout.Lists);
        Put(0x812, (ulong)random.Next(520));
        Put(0x2010, (ulong)random.NextInt64());
        Put(0x2012, NestedLayout.VirtualApic);
        Put(0x2014, ApicPage(random));
        Put(0x2016, NestedLayout.Lists + 0x40 * (ulong)random.Next(8));
        Put(2, NotificationVector);
        for (uint field = 0x201C; field < 0x2024; field += 2) Put(field, random.Next(2) == 0 ? 0 : (ulong)random.NextInt64());
        Put(0x810, random.Next(2) == 0 ? 0 : (ulong)random.Next(0x1_0000));
        Put(0x401C, random.Next(2) == 0 ? 0 : (ulong)random.Next(16));
        Registers(random);
        Put(0x2018, 1);
        Put(0x2024, NestedLayout.Lists);
        Set(NestedLayout.Lists, NestedLayout.SecondStage | 0x1E);
        Set(NestedLayout.Lists + 8, Interesting(random));
        Put(0x201A, NestedLayout.SecondStage | 0x1E | (ulong)random.Next(2) << 6);
        Put(0x2026, NestedLayout.Zeros);
        Put(0x2028, NestedLayout.Zeros);
        Put(0x202A, NestedLayout.VirtualApic + 0x400);
        Put(0x2032, 1ul << 48);
        Put(0x2800, random.Next(4) == 0 ? NestedLayout.OtherVmcs : ulong.MaxValue);
        Put(0x4004, random.Next(2) == 0 ? 0 : (ulong)random.NextInt64(1L << 32));
        Put(0x482E, (ulong)random.Next(1000));
        Put(0x4020, 100);
        Put(0x4022, 1000);
        if (random.Next(4) == 0)
            Put(0x4016, Valid | (uint)random.Next(8) << 8 | (uint)random.Next(random.Next(2) == 0 ? 32 : 256) | (uint)random.Next(2) << 11);
        Put(0x401A, (ulong)random.Next(3));
        CpuState s = Start();
        (uint, ulong)[] same =
        [
            (0x6C00, s.Cr0), (0x6C02, s.Cr3), (0x6C04, s.Cr4), (0x2C02, s.Efer & 0xD01), (0xC02, 8), (0xC04, 16), (0xC00, 16), (0xC06, 16), (0xC0C, 0x18),
            (0x6C0A, 0xA000), (0x6C0C, NestedLayout.Gdt), (0x6C0E, NestedLayout.Idt), (0x6C14, NestedLayout.Stack), (0x6C16, AfterExit),
            (0x2C00, 0x0007_0406_0007_0406), (0x6800, paged ? s.Cr0 : 0x31), (0x6802, NestedLayout.GuestTables), (0x6804, s.Cr4),
            (0x2806, paged ? s.Efer & 0xD01 : 0), (0x2804, 0x0007_0406_0007_0406), (0x802, 8), (0x804, 16), (0x800, 16), (0x806, 16), (0x80E, 0x18),
            (0x4802, uint.MaxValue), (0x4804, uint.MaxValue), (0x4800, uint.MaxValue), (0x4806, uint.MaxValue), (0x480E, 0x67), (0x680E + 6, 0xA000),
            (0x4816, paged ? 0xA09Bu : 0xC09B), (0x4818, 0xC093), (0x4814, 0xC093), (0x481A, 0xC093), (0x481C, 0x1_0000), (0x481E, 0x1_0000),
            (0x4820, 0x1_0000), (0x4822, 0x8B), (0x6816, NestedLayout.GuestGdt), (0x6818, NestedLayout.GuestIdt), (0x4810, 0x7F), (0x4812, 0xFFF),
            (0x681A, 0x400), (0x681C, NestedLayout.GuestStack + 0xF00), (0x681E, NestedLayout.GuestCode), (0x6820, 2ul | (ulong)random.Next(2) << 9),
        ];
        foreach ((uint field, ulong value) in same) Put(field, value);
        for (int n = random.Next(4); n > 0; n--)
        {
            VmcsField field = VmcsFields.All[random.Next(VmcsFields.All.Length)];
            ulong old = _fields.FindLast(f => f.Field == (uint)field).Value;
            Put((uint)field, random.Next(2) == 0 ? old ^ 1ul << random.Next(random.Next(2) == 0 ? 64 : 16) : Interesting(random));
        }
        uint at = NestedLayout.Fields;
        foreach ((uint field, ulong value) in _fields)
        {
            Set(at, field);
            Set(at + 8, value);
            at += 16;
        }
        Set(at, ulong.MaxValue);
        Set(NestedLayout.Pointers, NestedLayout.Operation);
        Set(NestedLayout.Pointers + 8, random.Next(16) == 0 ? Interesting(random) : NestedLayout.Vmcs);
        Set(NestedLayout.Pointers + 16, random.Next(4) == 0 ? Interesting(random) : NestedLayout.OtherVmcs);
        Set(NestedLayout.Pointers + 24, MostEntries);
    }

    /// <summary>The interrupt that notifies of those that are posted.</summary>
    public const byte NotificationVector = 0xF2;

    /// <summary>Controls of APIC virtualization that go together.</summary>
    private static void Apic(Random random, ref ulong pin, ref ulong primary, ref ulong secondary, ref ulong exit)
    {
        const ulong accesses = 1, x2 = 1 << 4, registers = 1 << 8, delivery = 1 << 9;
        primary |= 1 << 21;
        pin |= 1;
        secondary &= ~(accesses | x2 | registers | delivery);
        secondary |= random.Next(3) == 0 ? x2 : accesses;
        if (random.Next(2) == 0) secondary |= registers;
        if (random.Next(3) == 0) return;
        secondary |= delivery;
        primary &= ~(1ul << 2);
        if (random.Next(2) == 0) return;
        pin |= 1 << 7;
        exit |= 1 << 15;
    }

    /// <summary>What the guest uses most, or one of its tables.</summary>
    private static uint ApicPage(Random random) => random.Next(8) switch
    {
        0 => NestedLayout.GuestTables + 0x3000,
        1 => NestedLayout.GuestIdt,
        2 => NestedLayout.VirtualApic,
        3 => NestedLayout.GuestCode,
        4 or 5 => NestedLayout.Lists,
        _ => NestedLayout.GuestStack,
    };

    private enum VmxMsr : uint { Secondary = 0x48B }

    /// <summary>Bits that this processor's entries take; others are tried seldom enough by chance.</summary>
    private uint Allowed(VmxMsr _) => model.Has(CpuFeature.Xsaves) ? uint.MaxValue & ~(1u << 15 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 24) : uint.MaxValue;

    private void Svm(Random random)
    {
        const uint v = NestedLayout.Vmcb;
        bool nested = random.Next(4) != 0;
        for (uint at = 0; at < 0x18; at += 4) SetWord(v + at, random.Next(2) == 0 ? 0 : (uint)random.NextInt64(1L << 32));
        SetWord(v + 0x10, (uint)Get(v + 0x10) & 0x3FFF | 1);
        SetWord(v + 0x14, 0);
        SetWord(v + 0x3C, (uint)random.Next(3));
        Set(v + 0x40, NestedLayout.Bitmaps);
        Set(v + 0x48, NestedLayout.Zeros);
        Set(v + 0x50, (ulong)random.NextInt64());
        SetWord(v + 0x58, (uint)random.Next(1, 4));
        SetWord(v + 0x5C, random.Next(4) == 0 ? (uint)random.Next(8) : 0);
        if (random.Next(2) == 0) Set(v + 0x60, (ulong)random.NextInt64() & 0xFF_071F_1BFF);
        if (nested && random.Next(2) == 0) Avic(random);
        Set(v + 0x68, (ulong)random.Next(2));
        Set(v + 0x90, nested ? 1ul | (ulong)random.Next(2) << 3 : 0);
        if (random.Next(3) == 0)
            Set(v + 0xA8, Valid | (uint)random.Next(8) << 8 | (uint)random.Next(random.Next(2) == 0 ? 32 : 256) | (uint)random.Next(2) << 11);
        Set(v + 0xB0, NestedLayout.SecondStage);
        Set(v + 0xB8, (ulong)random.Next(4));
        Set(v + 0xC8, NestedLayout.GuestCode + 2);
        CpuState s = Start();
        foreach (uint at in (uint[])[0x400, 0x420, 0x430, 0x440, 0x450]) Segment(v + at, 16, 0xC93, uint.MaxValue, 0);
        Segment(v + 0x410, 8, 0xA9B, uint.MaxValue, 0);
        Segment(v + 0x460, 0, 0, 0x7F, NestedLayout.GuestGdt);
        Segment(v + 0x480, 0, 0, 0xFFF, NestedLayout.GuestIdt);
        Segment(v + 0x490, 0x18, 0x8B, 0x67, 0xA000);
        bool paged = !nested || random.Next(4) != 0;
        Set(v + 0x4D0, paged ? s.Efer : 0x1000);
        Set(v + 0x548, s.Cr4);
        Set(v + 0x550, NestedLayout.GuestTables);
        Set(v + 0x558, paged ? s.Cr0 : 0x31);
        Set(v + 0x560, 0x400);
        Set(v + 0x568, 0xFFFF_0FF0);
        Set(v + 0x570, 2ul | (ulong)random.Next(2) << 9 | (random.Next(16) == 0 ? 0x100ul : 0));
        Set(v + 0x578, NestedLayout.GuestCode);
        Set(v + 0x5D8, NestedLayout.GuestStack + 0xF00);
        Set(v + 0x668, 0x0007_0406_0007_0406);
        Set(v + 0x670, (ulong)random.Next(4));
        for (int n = random.Next(4); n > 0; n--)
        {
            uint at = v + (uint)random.Next(0x698 / 8) * 8;
            Set(at, random.Next(2) == 0 ? Get(at) ^ 1ul << random.Next(64) : Interesting(random));
        }
        Set(NestedLayout.Pointers, random.Next(16) == 0 ? Interesting(random) : v);
        Set(NestedLayout.Pointers + 24, MostEntries);
    }

    /// <summary>A backing page with requests, and tables whose entries lead to it and elsewhere.</summary>
    private void Avic(Random random)
    {
        const uint v = NestedLayout.Vmcb;
        Set(v + 0x60, 1ul << 31 | (random.Next(2) == 0 ? 1ul << 30 : 0) | 1ul << 24 | (uint)random.Next(16));
        SetWord(v + 0xC, (uint)Get(v + 0xC) & (random.Next(2) == 0 ? ~(1u << 28) : ~0u)); // accesses to MSRs
        Set(v + 0x98, ApicPage(random));
        Set(v + 0xE0, NestedLayout.VirtualApic);
        Set(v + 0xF0, NestedLayout.Lists);
        Set(v + 0xF8, NestedLayout.Lists | (ulong)random.Next(256));
        for (uint n = 0; n < 16; n++)
            Set(NestedLayout.Lists + n * 8, random.Next(4) == 0 ? Interesting(random) : (ulong)random.Next(4) << 62 | NestedLayout.VirtualApic | 1ul << 31);
        Registers(random);
    }

    /// <summary>What an APIC's page has.</summary>
    private void Registers(Random random)
    {
        for (uint register = 0x80; register <= 0x280; register += 16)
        {
            if (random.Next(4) == 0) SetWord(NestedLayout.VirtualApic + register, (uint)random.NextInt64(1L << 32) & (uint)random.NextInt64(1L << 32));
        }
    }

    private void Segment(uint at, ushort selector, ushort attributes, uint limit, ulong @base)
    {
        Set(at, selector | (ulong)attributes << 16 | (ulong)limit << 32);
        Set(at + 8, @base);
    }

    private void Put(uint field, ulong value)
    {
        if (_fields.Count < NestedLayout.MostFields) _fields.Add((field, value));
    }

    private static ulong RandomBits(Random random, ulong mask) => random.Next(3) switch
    {
        0 => 0,
        1 => (ulong)random.NextInt64() & (ulong)random.NextInt64() & mask,
        _ => 1ul << random.Next(32) & mask,
    };

    private void Spoil(Random random)
    {
        uint at = NestedLayout.Open + (uint)random.Next((int)NestedLayout.OpenSize / 8) * 8;
        Set(at, Interesting(random));
    }

    /// <summary>Values at the edges of what something can be.</summary>
    private static ulong Interesting(Random random) => random.Next(10) switch
    {
        0 => 0,
        1 => ulong.MaxValue,
        2 => 1ul << random.Next(64),
        3 => (1ul << random.Next(64)) - 1,
        4 => NestedLayout.MemorySize - (ulong)random.Next(64),
        5 => NestedLayout.Open + (ulong)random.Next((int)NestedLayout.OpenSize),
        6 => NestedLayout.Open + ((ulong)random.Next((int)NestedLayout.OpenSize) & ~0xFFFul),
        7 => 0xFEE0_0000 + (ulong)random.Next(0x1000),
        8 => (ulong)random.NextInt64(long.MinValue, long.MaxValue),
        _ => 0x7FFF_FFFF_F000 + (ulong)random.Next(0x2000),
    };

    private void Set(uint at, ulong value) => BitConverter.TryWriteBytes(_open.AsSpan((int)(at - NestedLayout.Open), 8), value);

    private void SetWord(uint at, uint value) => BitConverter.TryWriteBytes(_open.AsSpan((int)(at - NestedLayout.Open), 4), value);

    private ulong Get(uint at) => BitConverter.ToUInt64(_open, (int)(at - NestedLayout.Open));

    // ---- the hypervisors

    private static void Intel(Assembler a)
    {
        Label write = a.CreateLabel(), enter = a.CreateLabel(), failed = a.CreateLabel();
        Label locked = a.CreateLabel();
        a.mov(ecx, 0x3A); // IA32_FEATURE_CONTROL: locked since the first round
        a.rdmsr();
        a.test(al, 1);
        a.jnz(locked);
        a.mov(eax, 5);
        a.xor(edx, edx);
        a.wrmsr();
        a.Label(ref locked);
        a.vmxon(__qword_ptr[NestedLayout.Pointers]);
        a.vmclear(__qword_ptr[NestedLayout.Pointers + 8]);
        a.vmptrld(__qword_ptr[NestedLayout.Pointers + 16]);
        a.vmptrld(__qword_ptr[NestedLayout.Pointers + 8]);
        a.mov(esi, NestedLayout.Fields);
        a.Label(ref write);
        a.mov(rax, __qword_ptr[rsi]);
        a.cmp(rax, -1);
        a.je(enter);
        a.vmwrite(rax, __qword_ptr[rsi + 8]);
        a.add(rsi, 16);
        a.cmp(esi, NestedLayout.Pointers);
        a.jb(write);
        a.Label(ref enter);
        a.mov(rbx, (ulong)NestedLayout.GuestStack);
        a.mov(rdi, (ulong)NestedLayout.Lists);
        a.mov(rsi, (ulong)NestedLayout.GuestCode);
        a.mov(ecx, 9);
        a.vmlaunch();
        a.jmp(failed);
        a.Label(ref failed);
        a.hlt();
    }

    /// <summary>Behind an exit, at <see cref="AfterExit"/>.</summary>
    private static void IntelAfterExit(Assembler a)
    {
        Label end = a.CreateLabel();
        a.dec(__qword_ptr[NestedLayout.Pointers + 24]);
        a.js(end);
        a.mov(eax, 0x4402);
        a.vmread(rdx, rax);
        a.mov(eax, 0x440C);
        a.vmread(rcx, rax);
        a.mov(eax, 0x681E);
        a.vmread(rdx, rax);
        a.and(ecx, 15);
        a.add(rdx, rcx); // over the instruction that has exited
        a.inc(rdx);
        a.vmwrite(rax, rdx);
        a.mov(eax, 0x6820);
        a.mov(edx, 0x202);
        a.vmwrite(rax, rdx);
        a.invvpid(rcx, __xmmword_ptr[NestedLayout.Lists]);
        a.invept(rcx, __xmmword_ptr[NestedLayout.Lists]);
        a.vmresume();
        a.mov(eax, 0x4400);
        a.vmread(rdx, rax);
        a.Label(ref end);
        a.vmclear(__qword_ptr[NestedLayout.Pointers + 8]);
        a.vmptrst(__qword_ptr[NestedLayout.Lists + 0x100]);
        a.vmxoff();
        a.hlt();
    }

    private static void Amd(Assembler a)
    {
        Label again = a.CreateLabel(), end = a.CreateLabel();
        a.mov(rbx, (ulong)NestedLayout.GuestStack);
        a.mov(rdi, (ulong)NestedLayout.Lists);
        a.mov(rsi, (ulong)NestedLayout.GuestCode);
        a.mov(ecx, 9);
        a.Label(ref again);
        a.clgi();
        a.mov(rax, __qword_ptr[NestedLayout.Pointers]);
        a.db(0x0F, 0x01, 0xDA); // VMLOAD
        a.db(0x0F, 0x01, 0xD8); // VMRUN
        a.db(0x0F, 0x01, 0xDB); // VMSAVE
        a.stgi();
        a.cmp(__qword_ptr[NestedLayout.Vmcb + 0x70], -1); // VMEXIT_INVALID
        a.je(end);
        a.dec(__qword_ptr[NestedLayout.Pointers + 24]);
        a.js(end);
        a.add(__qword_ptr[NestedLayout.Vmcb + 0x578], 2);
        a.mov(ecx, 2);
        a.db(0x0F, 0x01, 0xDF); // INVLPGA
        a.jmp(again);
        a.Label(ref end);
        a.hlt();
    }
}
