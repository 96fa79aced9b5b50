using Bunraku.Engines;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>Encodings of the VMCS fields that fixtures name. Intel SDM vol. 3D, appendix "Field Encoding in VMCS".</summary>
internal static class VmField
{
    public const uint Vpid = 0x0, MsrBitmaps = 0x2004, IoBitmapA = 0x2000, IoBitmapB = 0x2002, TscOffset = 0x2010, EptPointer = 0x201A, GuestPhysical = 0x2400,
        Link = 0x2800, GuestEfer = 0x2806, HostEfer = 0x2C02, Pin = 0x4000, Primary = 0x4002, ExceptionBitmap = 0x4004, ErrorMask = 0x4006,
        ErrorMatch = 0x4008, Cr3Targets = 0x400A, Exit = 0x400C, Entry = 0x4012, EntryMsrCount = 0x4014, Inject = 0x4016, InjectError = 0x4018,
        InjectLength = 0x401A, Secondary = 0x401E, Error = 0x4400, Reason = 0x4402, Interruption = 0x4404, InterruptionError = 0x4406, Vectoring = 0x4408,
        VectoringError = 0x440A, Length = 0x440C, Information = 0x440E, Interruptibility = 0x4824, Activity = 0x4826, Timer = 0x482E, Cr0Mask = 0x6000,
        Cr4Mask = 0x6002, Cr0Shadow = 0x6004, Cr4Shadow = 0x6006, Cr3Target0 = 0x6008, Qualification = 0x6400, Linear = 0x640A, GuestCr0 = 0x6800,
        GuestCr3 = 0x6802, GuestCr4 = 0x6804, GuestIdt = 0x6818, GuestRsp = 0x681C, GuestRip = 0x681E, GuestRflags = 0x6820, PendingDebug = 0x6822;

    // APIC virtualization
    public const uint NotificationVector = 0x2, InterruptStatus = 0x810, VirtualApic = 0x2012, ApicAccess = 0x2014, PostedDescriptor = 0x2016,
        EoiExitBitmap = 0x201C, TprThreshold = 0x401C;

    // ES, CS, SS, DS, FS, GS, LDTR, TR follow each other by 2.
    public const uint GuestSelector = 0x800, GuestLimit = 0x4800, GuestRights = 0x4814, GuestBase = 0x6806, HostSelector = 0xC00;
}

/// <summary>Controls of a VMCS that fixtures name. Intel SDM vol. 3C, "VM-Execution Control Fields".</summary>
internal static class VmControl
{
    public const uint ExternalInterrupt = 1, Nmi = 8, VirtualNmis = 0x20, Timer = 0x40;
    public const uint InterruptWindow = 1 << 2, TscOffsetting = 1 << 3, Hlt = 1 << 7, Rdtsc = 1 << 12, Cr3Load = 1 << 15, UnconditionalIo = 1 << 24,
        IoBitmaps = 1 << 25, MonitorTrap = 1 << 27, MsrBitmaps = 1 << 28, Secondary = 1u << 31;
    public const uint Ept = 1 << 1, DescriptorTables = 1 << 2, Rdtscp = 1 << 3, Vpid = 1 << 5, Unrestricted = 1 << 7;
    public const uint PinDefault = 0x16, PrimaryDefault = 0x0400_6172, ExitDefault = 0x3_6DFF | 1 << 9 | 1 << 20 | 1 << 21,
        EntryDefault = 0x11FF | 1 << 9 | 1 << 15;
}

/// <summary>
/// A hypervisor in a few instructions of 64-bit code: it writes the fields that the test has put down, enters, and after an exit reads what the test asks for.
/// Its guest begins as 64-bit code with the same tables. Whoever runs it again goes on with VMRESUME.
/// </summary>
internal sealed class VmxGuest : IDisposable
{
    public const string Model = "max,+vmx";
    public const uint OperationRegion = 0x10_0000, Vmcs = 0x10_1000, OtherVmcs = 0x10_2000, Zeros = 0x10_3000, ZerosToo = 0x10_4000, Writes = 0x12_0000,
        Reads = 0x13_0000, GuestCode = 0x14_0000, GuestStackTop = 0x15_8000, Pointers = 0x16_0000, EptTables = 0x18_0000;

    /// <summary>Holds the address where the hypervisor goes on after an exit that the test has looked at; at first "again".</summary>
    public const uint Continuation = Pointers + 40;

    private const uint Revision = 0x42_0001;
    private const ulong End = ulong.MaxValue;
    private static readonly uint[] s_read =
    [
        VmField.Error, VmField.Reason, VmField.Interruption, VmField.InterruptionError, VmField.Vectoring, VmField.VectoringError,
        VmField.Length, VmField.Information, VmField.Qualification, VmField.Linear, VmField.GuestPhysical, VmField.GuestRip, VmField.GuestRsp,
        VmField.GuestRflags,
        VmField.Activity,
        VmField.Interruptibility, VmField.GuestCr0, VmField.GuestCr3, VmField.GuestCr4, VmField.PendingDebug, VmField.Inject, VmField.Timer,
        VmField.InterruptStatus];

    /// <summary>Fields to be written before the next entry. After the first run, what the test adds.</summary>
    public Dictionary<uint, ulong> Fields { get; } = [];

    public Guest G { get; }

    public VmxGuest(string model = Model)
    {
        G = new Guest(Mode.Long, model: model);
        G.State.Cr4 |= 0x2000; // VMXE
        foreach (uint region in (uint[])[OperationRegion, Vmcs, OtherVmcs]) G.Write(region, Revision);
        G.Write<ulong>(Pointers, OperationRegion);
        G.Write<ulong>(Pointers + 8, Vmcs);
        SetDefaults();
    }

    /// <summary>Code of the hypervisor in front of its first entry, with a current VMCS.</summary>
    public Action<Assembler> Before { get; set; } = a => { };

    private void SetDefaults()
    {
        CpuState s = G.State;
        Dictionary<uint, ulong> f = Fields;
        f[VmField.Pin] = VmControl.PinDefault;
        f[VmField.Primary] = VmControl.PrimaryDefault | VmControl.MsrBitmaps;
        f[VmField.Exit] = VmControl.ExitDefault;
        f[VmField.Entry] = VmControl.EntryDefault;
        f[VmField.MsrBitmaps] = Zeros;
        f[VmField.Link] = ulong.MaxValue;
        (f[0x6C00], f[0x6C02], f[0x6C04]) = (s.Cr0, s.Cr3, s.Cr4);
        (f[VmField.GuestCr0], f[VmField.GuestCr3], f[VmField.GuestCr4]) = (s.Cr0, s.Cr3, s.Cr4);
        f[VmField.HostEfer] = f[VmField.GuestEfer] = s.Efer;
        f[VmField.HostSelector + 2] = Sel.Code64;
        f[VmField.HostSelector + 12] = Sel.Tss;
        f[VmField.HostSelector + 4] = Sel.Data32;
        (f[0x6C0A], f[0x6C0C], f[0x6C0E], f[0x6C14]) = (s.Tr.Base, s.GdtrBase, s.IdtrBase, Layout.StackTop);
        SegmentState[] segments = [s.Es, s.Cs, s.Ss, s.Ds, s.Fs, s.Gs, s.Ldtr, s.Tr];
        for (uint n = 0; n < segments.Length; n++)
        {
            f[VmField.GuestSelector + 2 * n] = segments[n].Selector;
            f[VmField.GuestBase + 2 * n] = segments[n].Base;
            f[VmField.GuestLimit + 2 * n] = segments[n].Limit;
            // The data segments as loading a descriptor leaves them: accessed.
            f[VmField.GuestRights + 2 * n] = segments[n].Attributes | (n < 6 ? 1u : 0);
        }
        (f[0x6816], f[0x6818], f[0x4810], f[0x4812]) = (s.GdtrBase, s.IdtrBase, s.GdtrLimit, s.IdtrLimit);
        (f[0x681A], f[VmField.GuestRsp], f[VmField.GuestRip], f[VmField.GuestRflags]) = (0x400, GuestStackTop, GuestCode, 2);
    }

    /// <summary>Emits: the processor allows VMX, and enters VMX operation with the region whose address lies there.</summary>
    public static void BecomeHypervisor(Assembler a, uint regionPointer)
    {
        a.mov(ecx, 0x3A);
        a.mov(eax, 5);
        a.xor(edx, edx);
        a.wrmsr();
        a.vmxon(__qword_ptr[regionPointer]);
    }

    /// <summary>Emits: what <see cref="PlaceFields"/> has put down goes into the current VMCS; then it goes on at a label.</summary>
    public static void WriteFields(Assembler a, Label then)
    {
        Label write = a.CreateLabel();
        a.mov(esi, Writes);
        a.Label(ref write);
        a.mov(rax, __qword_ptr[rsi]);
        a.cmp(rax, -1);
        a.je(then);
        a.mov(rbx, __qword_ptr[rsi + 8]);
        a.vmwrite(rax, rbx);
        a.add(rsi, 16);
        a.jmp(write);
    }

    /// <summary>Puts <see cref="Fields"/> down for the hypervisor.</summary>
    public void PlaceFields()
    {
        uint at = Writes;
        foreach ((uint field, ulong value) in Fields)
        {
            G.Write<ulong>(at, field);
            G.Write(at + 8, value);
            at += 16;
        }
        G.Write(at, End);
        Fields.Clear();
    }

    private bool _isPlaced; // the hypervisor's code is there

    private void Hypervisor()
    {
        G.Code(a =>
        {
            Label enter = a.CreateLabel(), launch = a.CreateLabel(), read = a.CreateLabel(), failed = a.CreateLabel(),
                next = a.CreateLabel(), done = a.CreateLabel();
            BecomeHypervisor(a, Pointers);
            a.vmclear(__qword_ptr[Pointers + 8]);
            a.vmptrld(__qword_ptr[Pointers + 8]);
            Before(a);
            G.Mark(a, "again");
            WriteFields(a, enter);
            a.Label(ref enter);
            a.cmp(__dword_ptr[Pointers + 48], 0);
            a.je(launch);
            a.vmresume();
            a.jmp(failed);
            a.Label(ref launch);
            a.vmlaunch();
            a.Label(ref failed);
            a.mov(__dword_ptr[Pointers + 16], 1);
            a.jmp(read);
            G.Mark(a, "exit");
            a.mov(__dword_ptr[Pointers + 16], 0);
            a.Label(ref read);
            a.mov(__qword_ptr[Pointers + 24], rax); // the guest's
            a.mov(__qword_ptr[Pointers + 32], rdx);
            a.mov(esi, Reads);
            a.Label(ref next);
            a.mov(rax, __qword_ptr[rsi]);
            a.cmp(rax, -1);
            a.je(done);
            a.vmread(__qword_ptr[rsi + 8], rax);
            a.add(rsi, 16);
            a.jmp(next);
            a.Label(ref done);
            a.hlt();
            a.jmp(__qword_ptr[Continuation]);
        });
        G.Write(Continuation, G["again"]);
        Fields.TryAdd(0x6C16, G["exit"]);
        for (int n = 0; n < s_read.Length; n++) G.Write<ulong>(Reads + (uint)n * 16, s_read[n]);
        G.Write(Reads + (uint)s_read.Length * 16, End);
    }

    /// <summary>The guest's code, at <see cref="GuestCode"/>.</summary>
    public VmxGuest Guest(Action<Assembler> emit)
    {
        G.Place(GuestCode, 64, emit);
        return this;
    }

    /// <summary>Maps the first 4 MiB to themselves by EPT, with pages of 4 KiB, and switches EPT on.</summary>
    public VmxGuest WithEpt(ulong flags = 7, bool accessedDirty = false)
    {
        G.Write(EptTables, EptTables + 0x1000ul | 7);
        G.Write(EptTables + 0x1000, EptTables + 0x2000ul | 7);
        for (uint n = 0; n < 2; n++)
        {
            G.Write(EptTables + 0x2000 + n * 8, EptTables + 0x3000 + n * 0x1000ul | 7);
            for (uint k = 0; k < 512; k++) G.Write(EptTables + 0x3000 + n * 0x1000 + k * 8, (n << 21 | k << 12) | flags | 6 << 3);
        }
        Fields[VmField.EptPointer] = EptTables | 6 | 3 << 3 | (accessedDirty ? 1u << 6 : 0);
        Fields[VmField.Primary] |= VmControl.Secondary;
        Fields[VmField.Secondary] = VmControl.Ept | (Fields.TryGetValue(VmField.Secondary, out ulong old) ? old : 0);
        return this;
    }

    /// <summary>Where the EPT entry of a page of the first 4 MiB lies.</summary>
    public static uint EptEntry(ulong page) => EptTables + 0x3000 + (uint)(page >> 12) * 8;

    /// <summary>The next entry is by VMRESUME: as a rule each but the first.</summary>
    public bool Resumes { get; set; }

    /// <summary>Enters the guest, or enters it again, up to the next exit.</summary>
    public VmxExitResult Run(string engine)
    {
        Begin(engine).Done();
        return Result();
    }

    /// <summary>As <see cref="Run"/>, up to an exit to the hypervisor outside that <see cref="Guest.OnExit"/> ends the run with.</summary>
    public Outcome Begin(string engine)
    {
        if (!_isPlaced) Hypervisor();
        _isPlaced = true;
        PlaceFields();
        G.Write(Pointers + 48, Resumes ? 1 : 0);
        Resumes = true;
        return G.Run(engine);
    }

    /// <summary>What the hypervisor has read.</summary>
    public VmxExitResult Result()
    {
        var values = new Dictionary<uint, ulong>();
        for (int n = 0; n < s_read.Length; n++) values[s_read[n]] = G.Read<ulong>(Reads + (uint)n * 16 + 8);
        return new VmxExitResult(G.Read<uint>(Pointers + 16) != 0, values, G.Read<ulong>(Pointers + 24), G.Read<ulong>(Pointers + 32));
    }

    public void Dispose() => G.Dispose();
}

/// <summary>What the hypervisor read after an exit, or after an entry that failed.</summary>
/// <param name="Failed">VMLAUNCH or VMRESUME came to the next instruction.</param>
/// <param name="Rax">The guest's.</param>
internal sealed record VmxExitResult(bool Failed, Dictionary<uint, ulong> Values, ulong Rax, ulong Rdx)
{
    public ulong this[uint field] => Values[field];

    /// <summary>There was an exit with this reason and qualification.</summary>
    public VmxExitResult Is(uint reason, ulong qualification = 0, uint? length = null)
    {
        Assert.Equal((false, reason, qualification), (Failed, (uint)this[VmField.Reason], this[VmField.Qualification]));
        if (length is { } l) Assert.Equal(l, (uint)this[VmField.Length]);
        return this;
    }

    public void FailedWith(uint error) => Assert.Equal((true, (ulong)error), (Failed, this[VmField.Error]));
}
