using Bunraku.Hypervisor;
using Bunraku.Sessions.Debugging;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>
/// GDB at a guest inside the guest: its code stops, its registers are shown, and its memory is what both stages of page tables say. AMD APM volume 2,
/// appendix B "VMCB Layout", and "Nested Paging"; Intel SDM volume 3C, "VM Entries", and "The Extended Page Table Mechanism (EPT)".
/// </summary>
public sealed class GdbNestedTests : IDisposable
{
    private const int Code = 0x10_0020, HostTable = 0x1F_0000, NestedTable = 0x1F_1000, Vmcb = 0x1F_2000, HostSave = 0x1F_3000, Stack = 0x1F_8000;
    /// <summary>On VMX: the two regions and the tables of the second stage below the first one.</summary>
    private const int Vmcs = Vmcb, Operation = HostSave, DirectoryPointers = 0x1F_4000, PageDirectory = 0x1F_5000, Pointer = 0x1F_6000;
    /// <summary>What the inner guest has at the first address is at the second one in the outer guest's memory.</summary>
    private const int Data = 0x40_0000, Behind = 0x80_0000;

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-gdb-").FullName;
    private readonly Dictionary<string, ulong> _marks = [];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("interp", NestedVirtualization.Svm), InlineData("interp", NestedVirtualization.Vmx)]
    [InlineData("bt", NestedVirtualization.Svm), InlineData("bt", NestedVirtualization.Vmx)]
    [InlineData("check", NestedVirtualization.Svm), InlineData("check", NestedVirtualization.Vmx)]
    public async Task ItStopsAndStepsInBoth(string engine, NestedVirtualization nested)
    {
        bool isVmx = nested == NestedVirtualization.Vmx;
        string socket = Path.Combine(_folder, "socket"), kernel = Path.Combine(_folder, "kernel");
        File.WriteAllBytes(kernel, Kernel(isVmx));
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Kernel = kernel,
            Memory = 16 << 20,
            Nested = nested,
            DebugExit = true,
            Debugger = DebugEndpoint.Unix(socket),
            StartsStopped = true,
            Timeout = TimeSpan.FromMinutes(5),
        }.Build();
        Task<VmResult> run = vm.RunAsync();
        string output = GdbBatch.Run(socket,
            $"hbreak *{_marks["vmrun"]}", "continue", "delete",
            "printf \"outside %x, memory %x\\n\", $pc, *(int *) 0x400000",
            "stepi", // an entry is one step
            "printf \"entered %x\\n\", $pc",
            $"break *{_marks["inside"]} if $ecx == 3", "continue", "delete",
            "printf \"inside ecx %d esp %x memory %d\\n\", $ecx, $esp, *(int *) 0x400000",
            "print $cr0",
            "x/i $pc",
            $"watch *(int *) {Data}", "continue", "delete",
            $"rwatch *(int *) {Data + 4}", "continue", "delete",
            "set var *(int *) 0x400004 = 77", // to the memory behind the inner guest's address
            "monitor phys on", $"printf \"behind %d %d\\n\", *(int *) {Behind}, *(int *) {Behind + 4}", "monitor phys off",
            "set var $ecx = 9",
            $"tbreak *{_marks["call"]}", "continue",
            "stepi", // and an exit is one
            "printf \"left %x, memory %x and %d %d\\n\", $pc, *(int *) 0x400000, *(int *) 0x800000, *(int *) 0x800004",
            "print $cr0",
            "continue");
        GdbBatch.Prints(output, $"^outside {_marks["vmrun"]:x}, memory 5555$");
        GdbBatch.Prints(output, $"^entered {_marks["guest"]:x}$");
        GdbBatch.Prints(output, $"^inside ecx 3 esp {Stack - 0x100:x} memory 3$");
        GdbBatch.Prints(output, $"=> 0x{_marks["inside"]:x}:\\s+inc +%ecx");
        GdbBatch.Prints(output, isVmx ? "= \\[ PE ET NE \\]\n" : "= \\[ PE ET \\]\n"); // the inner guest has no paging
        GdbBatch.Prints(output, "^Old value = 3\nNew value = 4$");
        GdbBatch.Prints(output, $"^Hardware read watchpoint \\d+: \\*\\(int \\*\\) {Data + 4}$");
        GdbBatch.Prints(output, "^behind 4 77$");
        GdbBatch.Prints(output, $"^left {_marks["left"]:x}, memory 5555 and 10 77$");
        GdbBatch.Prints(output, isVmx ? "= \\[ PE ET NE PG \\]\n" : "= \\[ PE ET PG \\]\n");
        GdbBatch.Prints(output, "exited with code 05");
        Assert.Equal((StopReason.DebugExit, 5), ((await run).Cause.Reason, (await run).ExitStatus));
    }

    private byte[] Kernel(bool isVmx)
    {
        var labels = new Dictionary<string, Label>();
        var a = new Assembler(32);
        void Mark(string name)
        {
            Label label = a.CreateLabel();
            a.Label(ref label);
            labels.Add(name, label);
        }

        Label guest = a.CreateLabel(), begin = a.CreateLabel(), enter = a.CreateLabel(), host = a.CreateLabel();
        Put(a, Data, 0x5555);
        for (int n = 0; n < 4; n++) Put(a, HostTable + 4 * n, (n << 22) | 0x83); // pages of 4 MiB
        if (isVmx) PrepareVmx(a);
        else PrepareSvm(a);
        a.mov(esp, Stack);
        a.call(begin); // pushes where the guest begins
        a.Label(ref guest);
        a.nop();
        Mark("inside");
        a.inc(ecx);
        a.mov(__dword_ptr[Data], ecx);
        a.cmp(__dword_ptr[Data + 4], 1);
        a.cmp(ecx, 10);
        a.jne(labels["inside"]);
        Mark("call");
        if (isVmx) a.vmcall();
        else a.vmmcall();
        TestKernel.Loop(a);
        a.Label(ref begin);
        a.pop(edx);
        if (isVmx) Field(a, VmcsField.GuestRip, null);
        else a.mov(__dword_ptr[Vmcb + 0x578], edx);
        a.call(enter); // pushes where an exit of VMX leads
        a.Label(ref host);
        if (isVmx) labels.Add("left", host);
        a.nop();
        TestKernel.Out(a, 0xF4, 2);
        TestKernel.Loop(a);
        a.Label(ref enter);
        a.pop(edx);
        if (isVmx) Field(a, VmcsField.HostRip, null);
        a.xor(ecx, ecx);
        a.mov(eax, Vmcb);
        Mark("vmrun");
        if (isVmx)
        {
            a.vmlaunch();
        }
        else
        {
            a.db(0x0F, 0x01, 0xD8); // VMRUN
            Mark("left");
        }
        a.jmp(host);

        labels.Add("guest", guest);
        using var stream = new MemoryStream();
        AssemblerResult made = a.Assemble(new StreamCodeWriter(stream), Code, BlockEncoderOptions.ReturnNewInstructionOffsets);
        foreach ((string name, Label label) in labels) _marks[name] = made.GetLabelRIP(label);
        byte[] kernel = TestKernel.Assemble(c => c.db(new byte[0x1000]));
        stream.ToArray().CopyTo(kernel, 0x20);
        return kernel;
    }

    private static void Put(Assembler a, int address, int value) => a.mov(__dword_ptr[address], value);

    private static void EnablePaging(Assembler a, int cr4, int cr0)
    {
        a.mov(eax, HostTable);
        a.mov(cr3, eax);
        a.mov(eax, cr4);
        a.mov(AssemblerRegisters.cr4, eax);
        a.mov(eax, AssemblerRegisters.cr0);
        a.or(eax, cr0 | unchecked((int)0x8000_0000));
        a.mov(AssemblerRegisters.cr0, eax);
    }

    private static void PrepareSvm(Assembler a)
    {
        const int efer = unchecked((int)0xC000_0080), hostSaveMsr = unchecked((int)0xC001_0117);
        a.mov(ecx, efer);
        a.rdmsr();
        a.or(eax, 1 << 12); // SVME
        a.wrmsr();
        a.mov(ecx, hostSaveMsr);
        a.mov(eax, HostSave);
        a.xor(edx, edx);
        a.wrmsr();
        Put(a, NestedTable, 0x87);
        Put(a, NestedTable + 4, Behind | 0x87);
        Put(a, Vmcb + 0x10, 3); // VMRUN and VMMCALL are intercepted
        Put(a, Vmcb + 0x58, 1); // ASID
        Put(a, Vmcb + 0x90, 1); // nested paging
        Put(a, Vmcb + 0xB0, NestedTable);
        for (int segment = 0x400; segment < 0x440; segment += 16)
        {
            Put(a, Vmcb + segment, segment == 0x410 ? 0xC9B_0008 : 0xC93_0010);
            Put(a, Vmcb + segment + 4, -1);
        }
        Put(a, Vmcb + 0x4D0, 1 << 12);
        a.mov(eax, cr0);
        a.mov(__dword_ptr[Vmcb + 0x558], eax);
        Put(a, Vmcb + 0x560, 0x400); // DR7
        Put(a, Vmcb + 0x568, unchecked((int)0xFFFF_0FF0)); // DR6
        Put(a, Vmcb + 0x570, 2); // RFLAGS
        Put(a, Vmcb + 0x5D8, Stack - 0x100); // RSP
        Put(a, Vmcb + 0x668, 0x0007_0406); // PAT
        Put(a, Vmcb + 0x66C, 0x0007_0406);
        EnablePaging(a, cr4: 0x10, cr0: 0); // PSE
    }

    /// <summary>Emits: a field of the VMCS gets a value; null: that in EDX.</summary>
    private static void Field(Assembler a, VmcsField field, int? value)
    {
        a.mov(eax, (int)field);
        if (value is { } known) a.mov(edx, known);
        a.vmwrite(eax, edx);
    }

    private static void PrepareVmx(Assembler a)
    {
        const int featureControl = 0x3A, basic = 0x480, code = 8, data = 16, tss = 24, wholeLimit = -1, unusable = 0x1_0000;
        Label locked = a.CreateLabel();
        a.mov(ecx, featureControl);
        a.rdmsr();
        a.test(al, 1);
        a.jnz(locked);
        a.or(eax, 5);
        a.wrmsr();
        a.Label(ref locked);
        a.mov(ecx, basic);
        a.rdmsr();
        a.mov(__dword_ptr[Operation], eax); // the revision
        a.mov(__dword_ptr[Vmcs], eax);
        Put(a, NestedTable, DirectoryPointers | 7);
        Put(a, DirectoryPointers, PageDirectory | 7);
        for (int n = 0; n < 8; n++) Put(a, PageDirectory + 8 * n, ((n << 21) == Data ? Behind : n << 21) | 0xB7); // pages of 2 MiB, write-back
        EnablePaging(a, cr4: 0x2010, cr0: 0x20); // VMXE and PSE; NE
        Put(a, Pointer, Operation);
        a.vmxon(__qword_ptr[Pointer]);
        Put(a, Pointer, Vmcs);
        a.vmclear(__qword_ptr[Pointer]);
        a.vmptrld(__qword_ptr[Pointer]);
        (VmcsField, int)[] fields =
        [
            (VmcsField.PinBasedControls, 0x16), (VmcsField.ProcessorBasedControls, unchecked((int)0x8400_6172)), // with the secondary ones
            (VmcsField.SecondaryControls, 0x82), // EPT, unrestricted guest
            (VmcsField.ExitControls, 0x3_6DFF), (VmcsField.EntryControls, 0x11FF), (VmcsField.EptPointer, NestedTable | 0x1E),
            (VmcsField.VmcsLinkPointer, -1), (VmcsField.VmcsLinkPointer + 1, -1),
            (VmcsField.HostCr3, HostTable), (VmcsField.HostCsSelector, code), (VmcsField.HostSsSelector, data), (VmcsField.HostDsSelector, data),
            (VmcsField.HostEsSelector, data), (VmcsField.HostTrSelector, tss), (VmcsField.HostRsp, Stack),
            (VmcsField.GuestCr0, 0x31), (VmcsField.GuestCr4, 0x2000), (VmcsField.GuestDr7, 0x400), (VmcsField.GuestRflags, 2),
            (VmcsField.GuestRsp, Stack - 0x100), (VmcsField.GuestCsSelector, code), (VmcsField.GuestCsLimit, wholeLimit), (VmcsField.GuestCsRights, 0xC09B),
            (VmcsField.GuestSsSelector, data), (VmcsField.GuestSsLimit, wholeLimit), (VmcsField.GuestSsRights, 0xC093),
            (VmcsField.GuestDsSelector, data), (VmcsField.GuestDsLimit, wholeLimit), (VmcsField.GuestDsRights, 0xC093),
            (VmcsField.GuestEsSelector, data), (VmcsField.GuestEsLimit, wholeLimit), (VmcsField.GuestEsRights, 0xC093),
            (VmcsField.GuestFsRights, unusable), (VmcsField.GuestGsRights, unusable), (VmcsField.GuestLdtrRights, unusable),
            (VmcsField.GuestTrSelector, tss), (VmcsField.GuestTrLimit, 0x67), (VmcsField.GuestTrRights, 0x8B),
        ];
        foreach ((VmcsField field, int value) in fields) Field(a, field, value);
        a.mov(edx, cr0);
        Field(a, VmcsField.HostCr0, null);
        a.mov(edx, cr4);
        Field(a, VmcsField.HostCr4, null);
        a.sgdt(__[Pointer]);
        a.mov(edx, __dword_ptr[Pointer + 2]);
        Field(a, VmcsField.HostGdtrBase, null);
    }
}
