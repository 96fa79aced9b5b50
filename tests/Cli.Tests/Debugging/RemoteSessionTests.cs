using System.Buffers.Binary;
using System.Net.Sockets;
using System.Text;
using System.Xml.Linq;
using Bunraku.Engines.X86;
using Bunraku.Hypervisor;
using Bunraku.Sessions;
using Bunraku.Sessions.Debugging;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>A debugger's packets and what they do to a VM. GDB manual, appendix "GDB Remote Serial Protocol".</summary>
public sealed class RemoteSessionTests : IDisposable
{
    private const uint Entry = 0x10_0020, Data = 0x20_0000;

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-gdb-").FullName;
    private ulong _loop, _store, _behind, _end;

    private string Socket => Path.Combine(_folder, "socket");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    /// <summary>Counts in EAX until the word at <see cref="Data"/> is 1, adds to the one behind it, and ends with status 11.</summary>
    private Vm Build(string engine, int cpus = 1, bool stopped = true, TimeSpan? timeout = null)
    {
        string kernel = Path.Combine(_folder, "kernel");
        File.WriteAllBytes(kernel, TestKernel.Assemble(a =>
        {
            Label loop = a.CreateLabel(), again = a.CreateLabel();
            a.mov(ebx, Data);
            a.Label(ref again);
            a.nop();
            a.Label(ref loop);
            a.inc(eax);
            a.cmp(__dword_ptr[ebx], 1);
            a.jne(loop);
            a.mov(__dword_ptr[ebx], 0);
            a.add(__dword_ptr[ebx + 4], 0x11);
            a.cmp(__dword_ptr[ebx + 8], 0);
            a.je(again);
            TestKernel.Out(a, 0xF4, 5);
            TestKernel.Loop(a);
        }));
        // Lengths of the instructions as the assembler makes them: MOV 5, NOP 1, INC 1 (in 32-bit code), CMP 3, JNE 2, MOV 6, ADD 4.
        (_loop, _store, _behind) = (Entry + 6, Entry + 12, Entry + 18);
        _end = _behind + 4;
        return new VmBuilder(KnownEngines.All)
        {
            Engine = engine,
            Kernel = kernel,
            Memory = 16 << 20,
            Cpus = cpus,
            DebugExit = true,
            Debugger = DebugEndpoint.Unix(Socket),
            StartsStopped = stopped,
            Timeout = timeout ?? TimeSpan.FromMinutes(5),
        }.Build();
    }

    private static ulong Register(RemoteClient gdb, int number)
    {
        byte[] bytes = Convert.FromHexString(gdb.Ask($"p{number:x}"));
        return bytes.Length == 8 ? BinaryPrimitives.ReadUInt64LittleEndian(bytes) : BinaryPrimitives.ReadUInt32LittleEndian(bytes);
    }

    private const int Eax = 0, Ebx = 3, Eip = 8; // numbers of 32-bit registers

    private static RemoteClient Selected(RemoteClient gdb, int thread)
    {
        Assert.Equal("OK", gdb.Ask($"Hg{thread:x}"));
        return gdb;
    }

    public static TheoryData<string> Engines => ["interp", "bt", "check"];

    [Theory, MemberData(nameof(Engines))]
    public async Task BreakpointsStepsWatchpointsMemoryAndTheEnd(string engine)
    {
        await using Vm vm = Build(engine);
        Task<VmResult> run = vm.RunAsync();
        Assert.Equal(VmState.Paused, vm.State);
        using var gdb = new RemoteClient(Socket);
        Assert.Contains("PacketSize=4000", gdb.Ask("qSupported:multiprocess+;swbreak+;hwbreak+;xmlRegisters=i386"));
        Assert.Equal("OK", gdb.Ask("QStartNoAckMode"));
        Assert.Equal("T02thread:1;", gdb.Ask("?"));
        Assert.Equal(Entry, Register(gdb, Eip));

        Assert.Equal("OK", gdb.Ask($"Z1,{_loop:x},1"));
        for (uint n = 0; n < 3; n++)
        {
            Assert.Equal("T05hwbreak:;thread:1;", gdb.Ask("vCont;c"));
            Assert.Equal((_loop, n), (Register(gdb, Eip), (uint)Register(gdb, Eax) - 0x2BADB002));
            Assert.Equal("40", gdb.Ask($"m{_loop:x},1")); // INC EAX
            gdb.Ask($"z1,{_loop:x},1");
            Assert.Equal("T05thread:1;", gdb.Ask("vCont;s:1"));
            Assert.Equal(_loop + 1, Register(gdb, Eip));
            gdb.Ask($"Z1,{_loop:x},1");
        }
        gdb.Ask($"z1,{_loop:x},1");

        Assert.Equal("OK", gdb.Ask($"Z2,{Data:x},4"));
        Assert.Equal("OK", gdb.Ask($"X{Data:x},4:\u0001\0\0\0"));
        Assert.Equal($"T05watch:{Data:x};thread:1;", gdb.Ask("vCont;c"));
        Assert.Equal((_behind, "00000000"), (Register(gdb, Eip), gdb.Ask($"m{Data:x},4")));
        gdb.Ask($"z2,{Data:x},4");
        Assert.Equal("OK", gdb.Ask($"Z0,{_end:x},1"));
        Assert.Equal("T05swbreak:;thread:1;", gdb.Ask("c"));
        Assert.Equal("11000000", gdb.Ask($"m{Data + 4:x},4"));
        gdb.Ask($"z0,{_end:x},1");
        Assert.Equal("OK", gdb.Ask($"Z4,{Data:x},4"));
        Assert.Equal($"T05awatch:{Data:x};thread:1;", gdb.Ask("c"));
        Assert.Equal("OK", gdb.Ask($"z4,{Data:x},4"));
        Assert.Equal("OK", gdb.Ask($"Z3,{Data + 8:x},4"));

        Assert.Equal("OK", gdb.Ask($"M{Data:x},c:0100000000000000ffffffff"));
        Assert.Equal($"T05rwatch:{Data + 8:x};thread:1;", gdb.Ask("s") is "T05thread:1;" ? gdb.Ask("c") : "no step");
        Assert.Equal("W0b", gdb.Ask("vCont;c"));
        Assert.Null(gdb.Receive());
        Assert.Equal((StopReason.DebugExit, 11), ((await run).Cause.Reason, (await run).ExitStatus));
    }

    [Theory, InlineData("bt"), InlineData("interp")]
    public async Task AnInterruptStopsTheGuestAndADetachLetsItGoOn(string engine)
    {
        await using Vm vm = Build(engine, stopped: false);
        Task<VmResult> run = vm.RunAsync();
        using (var gdb = new RemoteClient(Socket))
        {
            Assert.Equal("T02thread:1;", gdb.Ask("?"));
            ulong before = Register(gdb, Eax);
            gdb.Send("vCont;c");
            gdb.SendRaw([3]);
            Assert.Equal("T02thread:1;", gdb.Receive());
            Assert.Equal("OK", gdb.Ask($"Z1,{_loop:x},1"));
            Assert.Equal("OK", gdb.Ask("D"));
            Assert.Null(gdb.Receive());
        }
        using (var gdb = new RemoteClient(Socket))
        {
            Assert.Equal("OK", gdb.Ask($"M{Data:x},4:00000000")); // it stands still, and not at the breakpoint of the one before
            Assert.Equal("OK", gdb.Ask("Hc-1"));
            gdb.Send("vCont;c");
            using (var second = new RemoteClient(Socket)) Assert.Null(second.Receive());
            gdb.SendRaw([3]);
            Assert.Equal("T02thread:1;", gdb.Receive());
            Assert.Equal("OK", gdb.Ask($"M{Data:x},c:010000000000000001000000"));
        } // just gone
        Assert.Equal(11, (await run).ExitStatus);
    }

    [Fact]
    public async Task KillEndsTheGuest()
    {
        await using Vm vm = Build("interp");
        Task<VmResult> run = vm.RunAsync();
        using var gdb = new RemoteClient(Socket);
        Assert.Equal("OK", gdb.Ask("vKill;1"));
        Assert.Equal(HostEnd.Quit, (await run).HostEnd);
    }

    [Fact]
    public async Task TheEndFromOutsideIsToldWhileTheGuestStandsStill()
    {
        await using Vm vm = Build("interp");
        Task<VmResult> run = vm.RunAsync();
        using var gdb = new RemoteClient(Socket);
        Assert.Equal("T02thread:1;", gdb.Ask("?"));
        vm.End(HostEnd.TimedOut);
        Assert.Equal("W7c", gdb.Receive());
        Assert.Equal(HostEnd.TimedOut, (await run).HostEnd);
    }

    [Fact]
    public async Task TheDescriptionNamesEachRegisterOnceAndTheirSizesAreThePackets()
    {
        await using Vm vm = Build("interp");
        vm.Start();
        using var gdb = new RemoteClient(Socket);
        foreach ((string word, string name) in ((string, string)[])[("auto", "i386"), ("i8086", "i8086"), ("x86-64", "i386:x86-64"), ("i386", "i386")])
        {
            Assert.Equal("", gdb.Monitor($"arch {word}"));
            string xml = "";
            for (string? piece = null; piece is null || piece[0] == 'm'; xml += piece[1..])
                piece = gdb.Ask($"qXfer:features:read:target.xml:{xml.Length:x},400");
            XElement target = XDocument.Parse(xml.Replace("<!DOCTYPE target SYSTEM \"gdb-target.dtd\">", "")).Root!;
            Assert.Equal(name, target.Element("architecture")!.Value);
            var registers = target.Descendants("reg").Select(r => (Name: (string)r.Attribute("name")!, Bits: (int)r.Attribute("bitsize")!)).ToList();
            Assert.Equal(registers.Count, registers.DistinctBy(r => r.Name).Count());
            string[] system = ["cr0", "cr2", "cr3", "cr4", "cr8", "efer", "fs_base", "gs_base", "k_gs_base", "mxcsr", "xmm7", "ymm7h", "st7", "fop"];
            Assert.Subset(registers.Select(r => r.Name).ToHashSet(), system.ToHashSet());
            string all = gdb.Ask("g");
            Assert.Equal(registers.Sum(r => r.Bits) / 4, all.Length);
            string one = "";
            for (int n = 0; n < registers.Count; n++) one += gdb.Ask($"p{n:x}");
            Assert.Equal(all, one);
            Assert.Equal("E01", gdb.Ask($"p{registers.Count:x}"));
            Assert.Equal("OK", gdb.Ask("G" + all));
            Assert.Equal(all, gdb.Ask("g"));
        }
    }

    [Fact]
    public async Task RegistersThatCanBeSetAreAndOthersAreNot()
    {
        await using Vm vm = Build("interp");
        vm.Start();
        using var gdb = new RemoteClient(Socket);
        Assert.Equal("OK", gdb.Ask($"P{Eax:x}=78563412"));
        Assert.Equal("OK", gdb.Ask($"P{Eip:x}={Hex32((uint)_loop)}"));
        CpuState state = vm.ReadState();
        Assert.Equal((0x1234_5678ul, _loop), (state.Gpr[0], state.Rip));
        int cr0 = NumberOf(gdb, "cr0"), xmm3 = NumberOf(gdb, "xmm3"), cs = NumberOf(gdb, "cs"), cr8 = NumberOf(gdb, "cr8"), ftag = NumberOf(gdb, "ftag");
        Assert.Equal("E01", gdb.Ask($"P{cr0:x}=00000000"));
        Assert.Equal("E01", gdb.Ask($"P{cs:x}=07000000"));
        Assert.Equal("E02", gdb.Ask($"P{cr0:x}=00"));
        Assert.Equal("OK", gdb.Ask($"P{xmm3:x}=000102030405060708090a0b0c0d0e0f"));
        Assert.Equal("000102030405060708090a0b0c0d0e0f", gdb.Ask($"p{xmm3:x}"));
        Assert.Equal("OK", gdb.Ask($"P{cr8:x}=05000000"));
        Assert.Equal("05000000", gdb.Ask($"p{cr8:x}"));
        Assert.Equal("ffff0000", gdb.Ask($"p{ftag:x}"));

        static string Hex32(uint value) => Convert.ToHexStringLower(BitConverter.GetBytes(value));
    }

    private static int NumberOf(RemoteClient gdb, string name)
    {
        string xml = gdb.Ask("qXfer:features:read:target.xml:0,1f00")[1..];
        return XDocument.Parse(xml.Replace("<!DOCTYPE target SYSTEM \"gdb-target.dtd\">", "")).Descendants("reg")
            .Select(r => (string)r.Attribute("name")!).ToList().IndexOf(name);
    }

    [Fact]
    public async Task MemoryIsThatBehindThePageTablesOrPhysical()
    {
        await using Vm vm = Build("interp");
        vm.Start();
        using var gdb = new RemoteClient(Socket);
        // A directory of 32-bit paging with a large page of 4 MiB, which is read-only: linear C0000000 is physical 0.
        vm.Machine.Memory.TryWrite(0x30_0000 + 4 * 0x300, 0x81u);
        var state = vm.ReadState();
        (state.Cr0, state.Cr3, state.Cr4) = (state.Cr0 | 0x8001_0000, 0x30_0000, 0x10);
        vm.Machine.Cpus[0].Cpu.WriteState(state);
        Assert.Equal("", gdb.Monitor("phys off")); // whoever wrote the state went past the debugger
        Assert.Equal("OK", gdb.Ask($"Mc0200000,4:11223344"));
        Assert.Equal("11223344", gdb.Ask("mc0200000,4"));
        Assert.Equal("E14", gdb.Ask($"m{Data:x},4"));
        Assert.Equal("E14", gdb.Ask($"M{Data:x},1:00"));
        Assert.True(vm.Machine.Memory.TryRead(0x30_0000 + 4 * 0x300, out uint entry));
        Assert.Equal(0x81u, entry); // neither accessed nor dirty
        Assert.Equal("", gdb.Monitor("phys on"));
        Assert.Equal("11223344", gdb.Ask($"m{Data:x},4"));
        Assert.Equal("E14", gdb.Ask("mc0200000,4"));
        Assert.Equal("OK", gdb.Ask($"M{Data:x},0:"));
        Assert.Equal("phys is on\n", gdb.Monitor("phys"));
        // Up to where memory ends.
        Assert.Equal(0x10 * 2, gdb.Ask("mfffff0,100").Length);
    }

    [Fact]
    public async Task TheMonitorsCommandsAreTheDebuggers()
    {
        await using Vm vm = Build("interp");
        vm.Start();
        using var gdb = new RemoteClient(Socket);
        Assert.Contains("phys on|off", gdb.Monitor("help"));
        Assert.Contains("info registers [CPU]", gdb.Monitor("help"));
        Assert.Contains("RIP", gdb.Monitor("info registers"), StringComparison.OrdinalIgnoreCase);
        Assert.Contains("unknown command", gdb.Monitor("nonsense"));
        Assert.Contains("usage: arch", gdb.Monitor("arch z80"));
        Assert.Contains("a debugger has stopped the guest", gdb.Monitor("cont"));
        Assert.Equal("", gdb.Monitor(""));
    }

    [Theory, InlineData("bt", 2), InlineData("interp", 4)]
    public async Task EachProcessorIsAThread(string engine, int cpus)
    {
        await using Vm vm = Build(engine, cpus);
        vm.Start();
        using var gdb = new RemoteClient(Socket);
        Assert.Equal("m" + string.Join(',', Enumerable.Range(1, cpus)), gdb.Ask("qfThreadInfo"));
        Assert.Equal("l", gdb.Ask("qsThreadInfo"));
        Assert.Equal(("OK", "OK", "E01"), (gdb.Ask("T1"), gdb.Ask($"T{cpus}"), gdb.Ask($"T{cpus + 1:x}")));
        Assert.Equal("cpu0 running", Encoding.UTF8.GetString(Convert.FromHexString(gdb.Ask("qThreadExtraInfo,1"))));
        // The others wait for their start: a step of one that does nothing is interrupted.
        gdb.Send("vCont;s:2");
        gdb.SendRaw([3]);
        Assert.StartsWith("T02", gdb.Receive());
        Assert.Equal(Entry, Register(Selected(gdb, 1), Eip)); // and the first one was held
        Assert.Equal("cpu1 waits for its start", Encoding.UTF8.GetString(Convert.FromHexString(gdb.Ask("qThreadExtraInfo,2"))));
        Assert.Equal("T05thread:1;", gdb.Ask("vCont;s:1;c"));
        Assert.Equal("QC1", gdb.Ask("qC"));
        Assert.Equal("OK", gdb.Ask($"Z0,{_loop:x},1"));
        Assert.Equal("T05thread:1;", gdb.Ask("vCont;c"));
        Assert.Equal(_loop, Register(gdb, Eip));
        // LLDB's way to name the thread of a register.
        Assert.Equal("OK", gdb.Ask("QThreadSuffixSupported"));
        Assert.Equal((gdb.Ask("Hg2"), gdb.Ask("g"), "E01"), ("OK", gdb.Ask("g;thread:0002;"), gdb.Ask("g;thread:9;")));
        Assert.Equal("OK", gdb.Ask($"P{Ebx:x}=01020304;thread:0001;"));
        Assert.Equal("01020304", gdb.Ask($"p{Ebx:x};thread:0001;"));
        foreach (string wrong in (string[])["vCont", "vCont;", "vCont;x", "vCont;c:", $"vCont;c:{cpus + 1:x}", "vCont;C", "vContc", "vCont;c:1:2"])
            Assert.Equal("E02", gdb.Ask(wrong));
    }

    [Theory]
    [InlineData("m", "E02"), InlineData("m0", "E02"), InlineData("m0,", "E02"), InlineData("m0,4x", "E02"), InlineData("mfffffffffffffffff,1", "E02")]
    [InlineData("M0,2:00", "E02"), InlineData("M0,1:0", "E02"), InlineData("X0,2:a", "E02"), InlineData("X0,0:", "OK")]
    [InlineData("p", "E02"), InlineData("pffffffff", "E01"), InlineData("P0", "E02"), InlineData("P0=", "E02"), InlineData("G00", "E02")]
    [InlineData("H", "E02"), InlineData("Hg9", "E01"), InlineData("Hx1", ""), InlineData("T", "E01")]
    [InlineData("Z0,10", "E02"), InlineData("Z9,0,1", ""), InlineData("Z2,0,0", "E.a watchpoint has 1 to 4096 bytes")]
    [InlineData("Z2,ffffffffffffffff,2", "E.a watchpoint has 1 to 4096 bytes"), InlineData("Z2,0,1001", "E.a watchpoint has 1 to 4096 bytes")]
    [InlineData("z2,0,0", "OK"), InlineData("qXfer:features:read:other.xml:0,10", "E00"), InlineData("qXfer:features:read:target.xml:", "E02")]
    [InlineData("qXfer:features:read:target.xml:ffffffff,10", "E01"), InlineData("qXfer:auxv:read::0,10", ""), InlineData("qRcmd,0", "E02")]
    [InlineData("vMustReplyEmpty", ""), InlineData("!", ""), InlineData("", ""), InlineData("qAttached", "1"), InlineData("cx", "E02"), InlineData("C", "E02")]
    public async Task WhatMakesNoSenseIsAnswered(string packet, string answer)
    {
        await using Vm vm = Build("interp");
        vm.Start();
        using var gdb = new RemoteClient(Socket);
        Assert.Equal(answer, gdb.Ask(packet));
    }

    [Theory, InlineData("interp"), InlineData("bt")]
    public async Task RandomPacketsEndNoVmButByWhatTheyDoToTheGuest(string engine)
    {
        int resumed = 0;
        for (int seed = 0; seed < 8; seed++)
        {
            await using Vm vm = Build(engine, cpus: 2);
            Task<VmResult> run = vm.RunAsync();
            var fuzzer = new RemoteFuzzer(vm, seed);
            fuzzer.Run(packets: 400);
            resumed += fuzzer.Resumed;
            // Registers and memory have random contents by then.
            StopReason[] possible = [StopReason.Shutdown, StopReason.DebugExit, StopReason.Reset, StopReason.PowerOff];
            if (vm.Ended) Assert.Contains((await run).Cause.Reason, possible);
        }
        Assert.True(resumed > 10);
    }

    [Fact]
    public async Task RandomBytesDoNotHoldUpTheNextDebugger()
    {
        await using Vm vm = Build("interp");
        vm.Start();
        var random = new Random(2);
        for (int n = 0; n < 20; n++)
        {
            using var gdb = new RemoteClient(Socket);
            var bytes = new byte[2000];
            random.NextBytes(bytes);
            try
            {
                gdb.SendRaw(bytes);
                gdb.SendRaw("$X0,10:}}}}#"u8);
            }
            catch (SocketException)
            {
                // Turned away: the one before has not parted yet.
            }
        }
        string? reply = null;
        while (reply is null)
        {
            using var last = new RemoteClient(Socket);
            try
            {
                last.Send("?");
                reply = last.Receive();
            }
            catch (SocketException)
            {
                // As above.
            }
        }
        Assert.Equal("T02thread:1;", reply);
        Assert.False(vm.Ended);
    }
}
