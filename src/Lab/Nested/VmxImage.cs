using Iced.Intel;
using static Bunraku.Engines.X86.VmcsField;
using static Iced.Intel.AssemblerRegisters;
using OnEntry = Bunraku.Engines.X86.EntryControls;
using OnExit = Bunraku.Engines.X86.ExitControls;
using Secondary = Bunraku.Engines.X86.SecondaryControls;

namespace Bunraku.Lab.Nested;

/// <summary>
/// Hypervisors on VMX. Each emulates CPUID for its guest, and VMX where the guest is a hypervisor itself: then it runs the guest's guest by a VMCS that
/// it makes of the guest's, and takes back what an exit has changed there: RIP, RSP, RFLAGS and the exit information. With VMCS shadowing the processor
/// does those of the guest's VMREADs and VMWRITEs that come with each exit.
/// </summary>
/// <remarks>Intel SDM vol. 3C, "Virtual-Machine Extensions"; section "VMCS Types: Ordinary and Shadow".</remarks>
internal sealed class VmxImage : HypervisorImage
{
    // Offsets in the memory of a level that is a hypervisor.
    private const uint OperationOffset = 0x1_0000, ShadowOffset = 0x1_3000, ReadBitmapOffset = 0x1_4000, WriteBitmapOffset = 0x1_5000,
        MsrBitmapOffset = 0x1_6000, OwnFieldsOffset = 0x1_8000, InnerFieldsOffset = 0x1_9000, CopiedFieldsOffset = 0x1_A000,
        // What the guest's VMCS holds, as far as its hypervisor must know: eight bytes for each encoding.
        GuestVmcsOffset = 0x2_0000,
        // Pointers to the regions, then what the hypervisor keeps between exits.
        PointersOffset = 0x8200, ChangedOffset = 0x8240, LaunchedOffset = 0x8248, ScratchOffset = 0x8280;
    private const uint FeatureControl = 0x3A, Basic = 0x480, ShadowIndicator = 1u << 31, ArithmeticFlags = 0x8D5;
    private const ulong EptPointerFlags = 3 << 3 | 6, EptLeaf = 7 | 6 << 3; // walks of four levels, write-back; read, write, execute
    private const ulong EndOfList = ulong.MaxValue;

    /// <summary>What an exit of the guest's guest changes, and the guest's hypervisor is told.</summary>
    private static readonly VmcsField[] s_told = [VmcsField.ExitReason, ExitQualification, ExitInstructionLength, ExitInstructionInformation,
        ExitInterruptionInformation, IdtVectoringInformation, GuestRip, GuestRsp, GuestRflags];

    /// <summary>What it can have changed for the next entry without being asked.</summary>
    private static readonly VmcsField[] s_taken = [GuestRip, GuestRsp, GuestRflags];

    private readonly bool _shadowing;

    public VmxImage(int levels, bool shadowing) : base(levels)
    {
        _shadowing = shadowing;
        for (int level = 1; level < levels; level++) Write(level);
    }

    public override string Model => "max,+vmx";

    public override string NameOf(ulong reason) => VmxNames.Of((VmxExitReason)(ushort)reason).ToUpperInvariant();

    protected override void Prepare(CpuState state) => state.Cr4 |= 0x2000; // VMXE

    private void Write(int level)
    {
        uint window = Window(level);
        bool isOuter = level + 1 < Levels; // its guest is a hypervisor
        WriteTables(window + SecondStageOffset, 7, EptLeaf);
        foreach ((uint at, uint region) in (ReadOnlySpan<(uint, uint)>)[(0, OperationOffset), (8, OwnOffset), (16, InnerOffset), (24, ShadowOffset)])
            Memory.TryWrite<ulong>(window + PointersOffset + at, window + region);
        ulong exit = window + 0x2000, innerExit = window + 0x4000;
        WriteList(window + OwnFieldsOffset, [.. Fields(window, vpid: 1, exit, shadows: isOuter && _shadowing), .. GuestFields(level + 1)]);
        Place(window, a => Begin(a, window, isOuter));
        Place((uint)exit, a => AtExit(a, level, isOuter));
        if (!isOuter) return;
        WriteList(window + InnerFieldsOffset, [.. Fields(window, vpid: 2, innerExit, shadows: false)]);
        WriteList(window + CopiedFieldsOffset, [.. GuestFields(level + 2).Select(f => (f.Field, (ulong)Slot(window, f.Field)))]);
        Place((uint)innerExit, a => AtInnerExit(a, window));
        foreach (uint bitmap in (uint[])[ReadBitmapOffset, WriteBitmapOffset])
            Memory.Write(window + bitmap, Enumerable.Repeat(byte.MaxValue, 4096).ToArray());
        foreach (VmcsField field in s_told) Clear(window + ReadBitmapOffset, field);
        foreach (VmcsField field in s_taken) Clear(window + WriteBitmapOffset, field);

        void Clear(uint bitmap, VmcsField field)
        {
            uint at = bitmap + ((uint)field >> 3);
            Memory.TryRead(at, out byte bits);
            Memory.TryWrite(at, (byte)(bits & ~(1 << ((int)field & 7))));
        }
    }

    /// <summary>Controls and host state of a VMCS.</summary>
    private static IEnumerable<(VmcsField Field, ulong Value)> Fields(uint window, ulong vpid, ulong exit, bool shadows)
    {
        CpuState s = Host(window);
        Secondary secondary = Secondary.EnableEpt | Secondary.EnableVpid;
        if (shadows) secondary |= Secondary.VmcsShadowing;
        return
        [
            (PinBasedControls, (ulong)PinControls.Default1),
            (ProcessorBasedControls, (ulong)(ProcessorControls.Default1 & ~(ProcessorControls.Cr3LoadExiting | ProcessorControls.Cr3StoreExiting)
                | ProcessorControls.UseMsrBitmaps | ProcessorControls.ActivateSecondaryControls)),
            (VmcsField.SecondaryControls, (ulong)secondary),
            (VmcsField.ExitControls, (ulong)(OnExit.Default1 | OnExit.SaveDebugControls | OnExit.HostAddressSpaceSize
                | OnExit.SaveEfer | OnExit.LoadEfer)),
            (VmcsField.EntryControls, (ulong)(OnEntry.Default1 | OnEntry.LoadDebugControls | OnEntry.Ia32eModeGuest
                | OnEntry.LoadEfer)),
            (VirtualProcessorIdentifier, vpid), (MsrBitmaps, window + MsrBitmapOffset), (EptPointer, window + SecondStageOffset | EptPointerFlags),
            (VmreadBitmap, window + ReadBitmapOffset), (VmwriteBitmap, window + WriteBitmapOffset), (VmcsLinkPointer, ulong.MaxValue),
            (HostCr0, s.Cr0), (HostCr3, s.Cr3), (HostCr4, s.Cr4), (HostEfer, s.Efer), (HostCsSelector, CodeSelector), (HostSsSelector, DataSelector),
            (HostDsSelector, DataSelector), (HostEsSelector, DataSelector), (HostTrSelector, TssSelector), (HostTrBase, Tss), (HostGdtrBase, Gdt),
            (HostIdtrBase, Idt), (HostRsp, window + StackOffset), (HostRip, exit),
        ];
    }

    private static CpuState Host(uint window) => new() { Cr0 = 0x8001_0033, Cr3 = Tables, Cr4 = 0x2620, Efer = 0xD01, Rip = window };

    /// <summary>Guest state: 64-bit code at the beginning of a level's memory.</summary>
    private static IEnumerable<(VmcsField Field, ulong Value)> GuestFields(int level)
    {
        CpuState s = Host(Window(level));
        return
        [
            (GuestCr0, s.Cr0), (GuestCr3, s.Cr3), (GuestCr4, s.Cr4), (GuestEfer, s.Efer), (GuestCsSelector, CodeSelector), (GuestSsSelector, DataSelector),
            (GuestDsSelector, DataSelector), (GuestEsSelector, DataSelector), (GuestTrSelector, TssSelector), (GuestCsLimit, uint.MaxValue),
            (GuestSsLimit, uint.MaxValue), (GuestDsLimit, uint.MaxValue), (GuestEsLimit, uint.MaxValue), (GuestTrLimit, TssLimit), (GuestTrBase, Tss),
            (GuestCsRights, CodeRights), (GuestSsRights, DataRights), (GuestDsRights, DataRights), (GuestEsRights, DataRights), (GuestFsRights, Unusable),
            (GuestGsRights, Unusable), (GuestLdtrRights, Unusable), (GuestTrRights, TssRights), (GuestGdtrBase, Gdt), (GuestIdtrBase, Idt),
            (GuestGdtrLimit, GdtLimit), (GuestIdtrLimit, IdtLimit), (GuestDr7, ResetDr7), (GuestRsp, Window(level) + StackOffset), (GuestRip, s.Rip),
            (GuestRflags, 2),
        ];
    }

    private void WriteList(uint at, (VmcsField Field, ulong Value)[] fields)
    {
        foreach ((VmcsField field, ulong value) in fields)
        {
            Memory.TryWrite<ulong>(at, (ulong)field);
            Memory.TryWrite(at + 8, value);
            at += 16;
        }
        Memory.TryWrite(at, EndOfList);
    }

    /// <summary>Where a hypervisor keeps a field of its guest's VMCS: five bits of width and type, six of the index.</summary>
    private static uint Slot(uint window, VmcsField field) => window + GuestVmcsOffset + (((uint)field >> 10 & 31) << 6 | (uint)field >> 1 & 63) * 8;

    private static AssemblerMemoryOperand Pointer(uint window, uint region) =>
        __qword_ptr[window + PointersOffset + region switch { OperationOffset => 0, OwnOffset => 8, InnerOffset => 16, _ => 24u }];

    private void Begin(Assembler a, uint window, bool isOuter)
    {
        Label locked = a.CreateLabel();
        a.mov(ecx, FeatureControl);
        a.rdmsr();
        a.test(al, 1);
        a.jnz(locked);
        a.mov(eax, 5); // locked, VMX outside SMX
        a.xor(edx, edx);
        a.wrmsr();
        a.Label(ref locked);
        a.mov(ecx, Basic);
        a.rdmsr();
        foreach (uint region in (uint[])[OperationOffset, OwnOffset, InnerOffset]) a.mov(__dword_ptr[window + region], eax);
        a.or(eax, ShadowIndicator);
        a.mov(__dword_ptr[window + ShadowOffset], eax);
        a.vmxon(Pointer(window, OperationOffset));
        if (isOuter)
        {
            if (_shadowing) a.vmclear(Pointer(window, ShadowOffset));
            a.vmclear(Pointer(window, InnerOffset));
            a.vmptrld(Pointer(window, InnerOffset));
            WriteFields(a, window + InnerFieldsOffset, isIndirect: false);
        }
        a.vmclear(Pointer(window, OwnOffset));
        a.vmptrld(Pointer(window, OwnOffset));
        WriteFields(a, window + OwnFieldsOffset, isIndirect: false);
        a.vmlaunch();
        a.ud2();
    }

    /// <summary>VMWRITE of each field of a list to the current VMCS.</summary>
    /// <param name="isIndirect">The list has addresses of values, not values.</param>
    private static void WriteFields(Assembler a, uint list, bool isIndirect)
    {
        Label write = a.CreateLabel(), end = a.CreateLabel();
        a.mov(esi, list);
        a.Label(ref write);
        a.mov(rax, __qword_ptr[rsi]);
        a.cmp(rax, -1);
        a.je(end);
        a.mov(rdx, __qword_ptr[rsi + 8]);
        if (isIndirect) a.mov(rdx, __qword_ptr[rdx]);
        a.vmwrite(rax, rdx);
        a.add(rsi, 16);
        a.jmp(write);
        a.Label(ref end);
    }

    private static void Read(Assembler a, AssemblerRegister64 into, VmcsField field)
    {
        a.mov(eax, (uint)field);
        a.vmread(into, rax);
    }

    private static void Write(Assembler a, VmcsField field, AssemblerRegister64 from)
    {
        a.mov(eax, (uint)field);
        a.vmwrite(rax, from);
    }

    /// <summary>An exit of the own guest.</summary>
    private void AtExit(Assembler a, int level, bool isOuter)
    {
        uint window = Window(level);
        Label skip = a.CreateLabel();
        Keep(a, window, withRax: true);
        Read(a, rbx, VmcsField.ExitReason);
        var emulated = new List<(VmxExitReason Reason, Action Emulate)> { (VmxExitReason.Cpuid, () => Answer(a, window, level, Kept(window, 0))) };
        if (isOuter)
        {
            emulated.Add((VmxExitReason.Vmread, () => EmulateRead(a, window)));
            emulated.Add((VmxExitReason.Vmwrite, () => EmulateWrite(a, window)));
            emulated.Add((VmxExitReason.Vmresume, () => EmulateEntry(a, window)));
            emulated.Add((VmxExitReason.Vmlaunch, () => EmulateEntry(a, window)));
            emulated.Add((VmxExitReason.Vmptrld, () => EmulateLoad(a, window)));
            emulated.Add((VmxExitReason.Vmclear, () => Succeed(a)));
            emulated.Add((VmxExitReason.Vmxon, () => Succeed(a)));
        }
        Label[] places = [.. emulated.Select(_ => a.CreateLabel())];
        for (int n = 0; n < places.Length; n++)
        {
            a.cmp(ebx, (uint)emulated[n].Reason);
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
        Read(a, rcx, ExitInstructionLength);
        Read(a, rbx, GuestRip);
        a.add(rbx, rcx);
        Write(a, GuestRip, rbx);
        GiveBack(a, window, withRax: true);
        a.vmresume();
        a.ud2();
    }

    /// <summary>The guest's instruction has succeeded. Intel SDM vol. 3C, "Conventions": VMsucceed.</summary>
    private static void Succeed(Assembler a)
    {
        Read(a, rbx, GuestRflags);
        a.and(rbx, unchecked((int)~ArithmeticFlags));
        Write(a, GuestRflags, rbx);
    }

    /// <summary>The register operands of VMREAD and VMWRITE: RDX the field's encoding, EBX the other register's number, RAX the field's slot.</summary>
    private static void Operands(Assembler a, uint window)
    {
        Read(a, rbx, ExitInstructionInformation);
        a.mov(ecx, ebx);
        a.shr(ecx, 28);
        a.mov(rdx, __qword_ptr[rcx * 8 + (window + RegistersOffset)]);
        a.shr(ebx, 3);
        a.and(ebx, 15);
        a.mov(eax, edx);
        a.shr(eax, 10);
        a.and(eax, 31);
        a.shl(eax, 6);
        a.mov(ecx, edx);
        a.shr(ecx, 1);
        a.and(ecx, 63);
        a.add(eax, ecx);
    }

    private static void EmulateRead(Assembler a, uint window)
    {
        Operands(a, window);
        a.mov(rcx, __qword_ptr[rax * 8 + (window + GuestVmcsOffset)]);
        a.mov(__qword_ptr[rbx * 8 + (window + RegistersOffset)], rcx);
        Succeed(a);
    }

    private static void EmulateWrite(Assembler a, uint window)
    {
        Label known = a.CreateLabel();
        Operands(a, window);
        a.mov(rcx, __qword_ptr[rbx * 8 + (window + RegistersOffset)]);
        a.mov(__qword_ptr[rax * 8 + (window + GuestVmcsOffset)], rcx);
        foreach (VmcsField field in s_taken)
        {
            a.cmp(edx, (uint)field);
            a.je(known);
        }
        a.mov(__dword_ptr[window + ChangedOffset], 1);
        a.Label(ref known);
        Succeed(a);
    }

    /// <summary>VMPTRLD: the guest has one VMCS. With shadowing its fields are in the shadow from now on.</summary>
    private void EmulateLoad(Assembler a, uint window)
    {
        if (_shadowing)
        {
            a.mov(rbx, Pointer(window, ShadowOffset));
            Write(a, VmcsLinkPointer, rbx);
        }
        Succeed(a);
    }

    /// <summary>VMLAUNCH and VMRESUME: what the guest has written goes into the VMCS of its guest, and that one runs.</summary>
    private void EmulateEntry(Assembler a, uint window)
    {
        Label clean = a.CreateLabel(), resume = a.CreateLabel();
        AssemblerRegister64[] values = [rbx, rcx, rdx];
        if (_shadowing) a.vmptrld(Pointer(window, ShadowOffset));
        for (int n = 0; n < s_taken.Length; n++)
        {
            if (_shadowing) Read(a, values[n], s_taken[n]);
            else a.mov(values[n], __qword_ptr[Slot(window, s_taken[n])]);
        }
        a.vmptrld(Pointer(window, InnerOffset));
        for (int n = 0; n < s_taken.Length; n++)
        {
            a.mov(__qword_ptr[Slot(window, s_taken[n])], values[n]);
            Write(a, s_taken[n], values[n]);
        }
        a.cmp(__dword_ptr[window + ChangedOffset], 0);
        a.je(clean);
        WriteFields(a, window + CopiedFieldsOffset, isIndirect: true);
        a.mov(__dword_ptr[window + ChangedOffset], 0);
        a.Label(ref clean);
        a.cmp(__dword_ptr[window + LaunchedOffset], 0);
        a.jne(resume);
        a.mov(__dword_ptr[window + LaunchedOffset], 1);
        GiveBack(a, window, withRax: true);
        a.vmlaunch();
        a.ud2();
        a.Label(ref resume);
        GiveBack(a, window, withRax: true);
        a.vmresume();
        a.ud2();
    }

    /// <summary>An exit of the guest's guest: its hypervisor is told, and goes on where it wants its exits.</summary>
    private void AtInnerExit(Assembler a, uint window)
    {
        Keep(a, window, withRax: true);
        for (int n = 0; n < s_told.Length; n++)
        {
            Read(a, rbx, s_told[n]);
            a.mov(__qword_ptr[_shadowing ? window + ScratchOffset + (uint)n * 8 : Slot(window, s_told[n])], rbx);
        }
        if (_shadowing)
        {
            a.vmptrld(Pointer(window, ShadowOffset));
            for (int n = 0; n < s_told.Length; n++)
            {
                a.mov(rbx, __qword_ptr[window + ScratchOffset + (uint)n * 8]);
                Write(a, s_told[n], rbx);
            }
        }
        a.vmptrld(Pointer(window, OwnOffset));
        a.mov(rbx, __qword_ptr[Slot(window, HostRip)]);
        Write(a, GuestRip, rbx);
        a.mov(rbx, __qword_ptr[Slot(window, HostRsp)]);
        Write(a, GuestRsp, rbx);
        a.mov(ebx, 2);
        Write(a, GuestRflags, rbx);
        GiveBack(a, window, withRax: true);
        a.vmresume();
        a.ud2();
    }
}
