using Bunraku.Hypervisor;
using Bunraku.Sessions.Debugging;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>
/// GDB at a guest inside the guest: its code stops, its registers are shown, and its memory is what both stages of page tables say. AMD APM volume 2,
/// appendix B "VMCB Layout", and "Nested Paging".
/// </summary>
public sealed class GdbNestedTests : IDisposable
{
    private const int Code = 0x10_0020, HostTable = 0x1F_0000, NestedTable = 0x1F_1000, Vmcb = 0x1F_2000, HostSave = 0x1F_3000, Stack = 0x1F_8000;
    /// <summary>What the inner guest has at the first address is at the second one in the outer guest's memory.</summary>
    private const int Data = 0x40_0000, Behind = 0x80_0000;

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-gdb-").FullName;
    private readonly Dictionary<string, ulong> _marks = [];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    public static TheoryData<string> Engines => ["interp", "bt", "check"];

    [Theory, MemberData(nameof(Engines))]
    public async Task ItStopsAndStepsInBoth(string engine)
    {
        string socket = Path.Combine(_folder, "socket"), kernel = Path.Combine(_folder, "kernel");
        File.WriteAllBytes(kernel, Kernel());
        await using Vm vm = new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Kernel = kernel,
            Memory = 16 << 20,
            Nested = NestedVirtualization.Svm,
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
        GdbBatch.Prints(output, "= \\[ PE ET \\]\n"); // the inner guest has no paging
        GdbBatch.Prints(output, "^Old value = 3\nNew value = 4$");
        GdbBatch.Prints(output, $"^Hardware read watchpoint \\d+: \\*\\(int \\*\\) {Data + 4}$");
        GdbBatch.Prints(output, "^behind 4 77$");
        GdbBatch.Prints(output, $"^left {_marks["left"]:x}, memory 5555 and 10 77$");
        GdbBatch.Prints(output, "= \\[ PE ET PG \\]\n");
        GdbBatch.Prints(output, "exited with code 05");
        Assert.Equal((StopReason.DebugExit, 5), ((await run).Cause.Reason, (await run).ExitStatus));
    }

    private byte[] Kernel()
    {
        const int efer = unchecked((int)0xC000_0080), hostSaveMsr = unchecked((int)0xC001_0117);
        var labels = new Dictionary<string, Label>();
        var a = new Assembler(32);
        void Mark(string name)
        {
            Label label = a.CreateLabel();
            a.Label(ref label);
            labels.Add(name, label);
        }
        void Put(int address, int value) => a.mov(__dword_ptr[address], value);

        Label guest = a.CreateLabel();
        a.mov(ecx, efer);
        a.rdmsr();
        a.or(eax, 1 << 12); // SVME
        a.wrmsr();
        a.mov(ecx, hostSaveMsr);
        a.mov(eax, HostSave);
        a.xor(edx, edx);
        a.wrmsr();
        Put(Data, 0x5555);
        for (int n = 0; n < 4; n++) Put(HostTable + 4 * n, (n << 22) | 0x83); // pages of 4 MiB
        Put(NestedTable, 0x87);
        Put(NestedTable + 4, Behind | 0x87);
        Put(Vmcb + 0x10, 3); // VMRUN and VMMCALL are intercepted
        Put(Vmcb + 0x58, 1); // ASID
        Put(Vmcb + 0x90, 1); // nested paging
        Put(Vmcb + 0xB0, NestedTable);
        for (int segment = 0x400; segment < 0x440; segment += 16)
        {
            Put(Vmcb + segment, segment == 0x410 ? 0xC9B_0008 : 0xC93_0010);
            Put(Vmcb + segment + 4, -1);
        }
        Put(Vmcb + 0x4D0, 1 << 12);
        a.mov(eax, cr0);
        Put(Vmcb + 0x560, 0x400); // DR7
        Put(Vmcb + 0x568, unchecked((int)0xFFFF_0FF0)); // DR6
        Put(Vmcb + 0x570, 2); // RFLAGS
        Put(Vmcb + 0x5D8, Stack - 0x100); // RSP
        Put(Vmcb + 0x668, 0x0007_0406); // PAT
        Put(Vmcb + 0x66C, 0x0007_0406);
        a.mov(__dword_ptr[Vmcb + 0x558], eax);
        a.mov(eax, HostTable);
        a.mov(cr3, eax);
        a.mov(eax, 0x10); // PSE
        a.mov(cr4, eax);
        a.mov(eax, cr0);
        a.or(eax, unchecked((int)0x8000_0000));
        a.mov(cr0, eax);
        a.mov(esp, Stack);
        a.xor(ecx, ecx);
        Label begin = a.CreateLabel();
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
        a.vmmcall();
        TestKernel.Loop(a);
        a.Label(ref begin);
        a.pop(__dword_ptr[Vmcb + 0x578]);
        a.mov(eax, Vmcb);
        Mark("vmrun");
        a.db(0x0F, 0x01, 0xD8); // VMRUN
        Mark("left");
        a.nop();
        TestKernel.Out(a, 0xF4, 2);
        TestKernel.Loop(a);

        labels.Add("guest", guest);
        using var stream = new MemoryStream();
        AssemblerResult made = a.Assemble(new StreamCodeWriter(stream), Code, BlockEncoderOptions.ReturnNewInstructionOffsets);
        foreach ((string name, Label label) in labels) _marks[name] = made.GetLabelRIP(label);
        byte[] kernel = TestKernel.Assemble(c => c.db(new byte[0x1000]));
        stream.ToArray().CopyTo(kernel, 0x20);
        return kernel;
    }
}
