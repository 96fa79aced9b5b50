using System.Buffers.Binary;
using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Platform;
using Bunraku.Testing;
using Iced.Intel;
using Xunit.Abstractions;
using Xunit.Sdk;
using static Bunraku.Fixtures.BoardGuest;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Fixtures;

/// <summary>What only an engine with a kernel behind it has: ways around exits, a log of dirty pages, a paravirtual clock of its own.</summary>
/// <remarks>Where no such engine runs there is no test at all, so that nothing counts as passed or skipped; <see cref="EngineCoverage"/> says so.</remarks>
[AttributeUsage(AttributeTargets.Method), XunitTestCaseDiscoverer("Bunraku.Fixtures." + nameof(NeedsShortcutsDiscoverer), "Bunraku.Fixtures")]
public sealed class NeedsShortcutsAttribute : FactAttribute
{
    /// <summary>Null when the fixtures run.</summary>
    internal static string? Reason => TestedEngines.Runnable.Any(e => e.Name == EngineShortcutTests.Engine) ? null
        : $"the engine '{EngineShortcutTests.Engine}' does not run here";
}

/// <summary>Finds the fixtures of <see cref="NeedsShortcutsAttribute"/>, or none.</summary>
public sealed class NeedsShortcutsDiscoverer(IMessageSink diagnosticMessageSink) : FactDiscoverer(diagnosticMessageSink)
{
    public override IEnumerable<IXunitTestCase> Discover(ITestFrameworkDiscoveryOptions discoveryOptions, ITestMethod testMethod,
        IAttributeInfo factAttribute) =>
        NeedsShortcutsAttribute.Reason == null ? base.Discover(discoveryOptions, testMethod, factAttribute) : [];
}

/// <inheritdoc cref="NeedsShortcutsAttribute"/>
public sealed class EngineShortcutTests
{
    internal const string Engine = "kvm";
    private const int Vector = 0x41, Flag = (int)Layout.Data, Go = (int)Layout.Data + 4;

    private static uint Word(BoardGuest guest, uint address)
    {
        Assert.True(guest.Vm.Memory.TryRead(address, out uint value));
        return value;
    }

    private static void WaitFor(BoardGuest guest, Func<bool> condition)
    {
        Assert.True(new Patience(TimeSpan.FromSeconds(20), guest.Vm).Await(condition), "the guest does not get on");
    }

    /// <summary>Emits: wait until the host writes a number.</summary>
    private static void WaitForHost(Assembler a, uint number)
    {
        Label wait = a.CreateLabel();
        a.Label(ref wait);
        a.cmp(__dword_ptr[Go], number);
        a.jb(wait);
    }

    [NeedsShortcuts]
    public void A_doorbell_signals_its_event_and_does_not_exit()
    {
        const ushort port = 0x500;
        const uint any = 0xD000_0000, eight = 0xD000_0010;
        using var guest = new BoardGuest(Engine, false, (_, a) =>
        {
            a.mov(dx, port);
            a.mov(ax, 7);
            for (int n = 0; n < 3; n++) a.@out(dx, ax);
            a.mov(ax, 8);
            a.@out(dx, ax);
            a.mov(eax, 5);
            a.mov(__dword_ptr[(long)any], eax);
            a.inc(eax);
            a.mov(__dword_ptr[(long)any], eax);
            a.mov(__byte_ptr[(long)any], al); // another size
            a.mov(__word_ptr[(long)eight], ax);
            End(a);
        });
        using EventDescriptor onPort = new(), inMemory = new(), gone = new();
        IEngineShortcuts shortcuts = guest.Vm.Shortcuts!;
        Assert.True(shortcuts.TryAddDoorbell(new(true, port, 2, 7), onPort));
        Assert.True(shortcuts.TryAddDoorbell(new(false, any, 4), inMemory));
        Assert.True(shortcuts.TryAddDoorbell(new(false, eight, 2), gone));
        shortcuts.RemoveDoorbell(new(false, eight, 2), gone);
        shortcuts.RemoveDoorbell(new(false, eight, 2), gone);
        Assert.False(shortcuts.TryAddDoorbell(new(true, port, 3), gone));
        var seen = new List<(ulong, int, ulong)>();
        guest.Vm.Cpus[0].OnExit = (_, e) =>
        {
            if (e.Address is port or any or eight) seen.Add((e.Address, e.Size, e.Data));
        };
        guest.Run();
        Assert.Equal([(port, 2, 8), (any, 1, 6), (eight, 2, 6)], seen);
        Assert.Equal((3ul, 2ul, 0ul), (onPort.Take(), inMemory.Take(), gone.Take()));
        Assert.False(onPort.Wait(0));
    }

    [NeedsShortcuts]
    public void A_signalled_event_is_an_interrupt_of_the_guest()
    {
        using var guest = new BoardGuest(Engine, true, (g, a) =>
        {
            EnableApic(a);
            Say(a, 1);
            a.sti();
            a.hlt();
            a.cli();
            Say(a, 2);
            WaitForHost(a, 1);
            Settle(a);
            BoardGuest.Read(a, InterruptRequest + 0x20);
            Say(a);
            End(a);
            g.Mark(a, "handler");
            a.push(eax);
            Say(a, 7);
            EndOfInterrupt(a);
            a.pop(eax);
            Return(a);
        }, g => g.Handle(Vector, "handler"));
        using EventDescriptor signal = new(), other = new();
        IEngineShortcuts shortcuts = guest.Vm.Shortcuts!;
        Assert.True(shortcuts.TryConnectInterrupt(signal, new MsiMessage(0xFEE0_0000, Vector)));
        Assert.True(shortcuts.TryConnectInterrupt(other, new MsiMessage(0xFEE0_0000, 0x99)));
        Assert.Throws<InvalidOperationException>(() => shortcuts.TryConnectInterrupt(signal, new MsiMessage(0xFEE0_0000, 0x99)));
        shortcuts.DisconnectInterrupt(other);
        guest.Vm.Start();
        guest.WaitUntilSaid(1);
        other.Signal();
        Thread.Sleep(20);
        Assert.Equal([1], guest.Said);
        signal.Signal();
        guest.WaitUntilSaid(3);
        shortcuts.DisconnectInterrupt(signal);
        shortcuts.DisconnectInterrupt(signal);
        signal.Signal();
        Assert.True(guest.Vm.Memory.TryWrite((ulong)Go, 1u));
        Assert.Equal([1, 7, 2, 0], guest.Finish());
    }

    [NeedsShortcuts]
    public void Without_the_engines_local_APICs_an_event_cannot_be_an_interrupt()
    {
        using var guest = new BoardGuest(Engine, false, (_, a) => End(a));
        using var signal = new EventDescriptor();
        Assert.False(guest.Vm.Shortcuts!.TryConnectInterrupt(signal, new MsiMessage(0xFEE0_0000, Vector)));
    }

    [NeedsShortcuts]
    public void Posted_writes_come_in_order_before_what_follows_them()
    {
        using var guest = new BoardGuest(Engine, false, (_, a) =>
        {
            Out(a, 0x80, 5);
            Out(a, 0x70, 0x0F);
            Out(a, 0x80, 6);
            a.mov(__dword_ptr[Flag], 1);
            WaitForHost(a, 1);
            a.@in(al, 0x80);
            Say(a);
            Out(a, 0x80, 9); // the guest's last words are not lost
            End(a);
        });
        var seen = new List<(ulong, ulong)>();
        guest.Vm.Cpus[0].OnExit = (_, e) =>
        {
            lock (seen) seen.Add((e.Address, e.Data));
        };
        guest.Vm.Start();
        WaitFor(guest, () => Word(guest, Flag) == 1);
        lock (seen) Assert.Empty(seen);
        Assert.True(guest.Vm.Memory.TryWrite((ulong)Go, 1u));
        Assert.Equal([6], guest.Finish());
        Assert.Equal([(0x80, 5), (0x70, 0x0F), (0x80, 6), (0x80, 6), (0xE9, 6), (0x80, 9)], seen.Take(6));
        Assert.Equal(9, guest.Board.PostCode.Last);
    }

    [NeedsShortcuts]
    public void More_posted_writes_than_there_is_room_for_are_all_there()
    {
        const int count = 1000;
        using var guest = new BoardGuest(Engine, false, (_, a) =>
        {
            Label loop = a.CreateLabel();
            a.mov(ecx, count);
            a.Label(ref loop);
            a.mov(eax, ecx);
            a.@out(0x80, al);
            a.dec(ecx);
            a.jnz(loop);
            End(a);
        });
        var seen = new List<ulong>();
        guest.Vm.Cpus[0].OnExit = (_, e) =>
        {
            if (e.Address == 0x80) seen.Add(e.Data);
        };
        guest.Run();
        Assert.Equal(Enumerable.Range(1, count).Reverse().Select(n => (ulong)n & 0xFF), seen);
    }

    [NeedsShortcuts]
    public void The_log_has_the_pages_that_the_guest_wrote_to()
    {
        using var guest = new BoardGuest(Engine, false, (_, a) =>
        {
            a.mov(__dword_ptr[0x20_0000], 1);
            a.mov(__dword_ptr[0x20_5FFE], eax); // across two pages
            Say(a, 1);
            WaitForHost(a, 1);
            a.mov(__dword_ptr[0x30_0000], 1);
            Say(a, 2);
            WaitForHost(a, 2);
            End(a);
        });
        IDirtyPageLog log = guest.Vm.DirtyPages!;
        log.Enable(true);
        guest.Vm.Start();
        guest.WaitUntilSaid(1);
        Assert.Equal([0x200u, 0x205u, 0x206u], Pages(log));
        Assert.True(guest.Vm.Memory.TryWrite((ulong)Go, 1u)); // as a device writes
        guest.WaitUntilSaid(2);
        Assert.Equal([(uint)(Go >> 12), 0x300u], Pages(log));
        Assert.Empty(Pages(log));
        Assert.True(guest.Vm.Memory.TryWrite((ulong)Go, 2u));
        guest.Finish();

        static IEnumerable<uint> Pages(IDirtyPageLog log)
        {
            ulong[] bits = log.Take(0);
            return Enumerable.Range(0, bits.Length * 64).Where(n => (bits[n / 64] >> n % 64 & 1) != 0).Select(n => (uint)n);
        }
    }

    [NeedsShortcuts]
    public void An_NMI_window_opens_when_the_NMI_that_is_held_has_been_delivered()
    {
        using var g = new Guest(Mode.Protected32);
        g.Code(a =>
        {
            Label loop = a.CreateLabel();
            a.nop();
            a.nop();
            a.hlt();
            g.Mark(a, "handler");
            a.inc(ebx);
            a.Label(ref loop);
            a.inc(ecx);
            a.jmp(loop);
        });
        g.Handle(X.NMI, "handler");
        g.State.Gpr[1] = g.State.Gpr[3] = 0;
        g.On(Engine);
        g.Cpu.InjectNmi();
        Assert.False(g.Cpu.NmiWindowOpen);
        Assert.Throws<InvalidOperationException>(g.Cpu.InjectNmi);
        g.Cpu.Controls = new ExecutionControls(NmiWindowExiting: true);
        g.OnExit = e => e.Reason == ExitReason.NmiWindow;
        Outcome o = g.Run(Engine);
        Assert.Equal(ExitReason.NmiWindow, o.Reason);
        Assert.True(o.State.NmiBlocked);
        Assert.InRange(o.State.Rip, g["handler"], g["handler"] + 8);
        Assert.InRange(o.State.Gpr[1], 0ul, 2ul); // at once, not after a while
        g.Cpu.InjectNmi(); // held until IRET
        Assert.False(g.Cpu.NmiWindowOpen);
        g.Cpu.ReadState(o.State);
        Assert.Equal((true, true), (o.State.NmiBlocked, o.State.NmiPending));
        Assert.Equal(0ul, o.State.Rflags & 0x100); // the single steps leave nothing behind
    }

    // ---- KVM's paravirtual interface. Linux Documentation/virt/kvm/x86/cpuid.rst, msr.rst

    private const uint SystemTime = 0x4B56_4D01, StealTimeMsr = 0x4B56_4D03, EndOfInterruptMsr = 0x4B56_4D04, AsynchronousFaults = 0x4B56_4D02;

    [NeedsShortcuts]
    public void The_clock_that_KVM_keeps_for_the_guest_is_virtual_time()
    {
        const uint clock = Layout.Spare, stamps = Layout.Data + 0x100;
        using var guest = new BoardGuest(Engine, true, (_, a) =>
        {
            void TakeStamp(int n)
            {
                a.rdtsc();
                a.mov(__dword_ptr[(int)stamps + n * 8], eax);
                a.mov(__dword_ptr[(int)stamps + n * 8 + 4], edx);
            }
            a.mov(ecx, SystemTime);
            a.mov(eax, clock | 1);
            a.xor(edx, edx);
            a.wrmsr();
            a.mov(ecx, StealTimeMsr);
            a.mov(eax, (clock + 0x40) | 1);
            a.wrmsr();
            Say(a, 1);
            TakeStamp(0);
            a.mov(__dword_ptr[Flag], 1);
            WaitForHost(a, 1);
            Say(a, 2);
            TakeStamp(1);
            a.mov(__dword_ptr[Flag], 2);
            WaitForHost(a, 2);
            End(a);
        });
        const long tolerance = 20_000_000; // ns
        long earliest = guest.Vm.Clock.Nanoseconds;
        guest.Vm.Start();
        long first = Stamp(1);
        Assert.InRange(first, earliest - tolerance, guest.Vm.Clock.Nanoseconds + tolerance);
        guest.Vm.Pause();
        Thread.Sleep(700);
        earliest = Math.Max(first, guest.Vm.Clock.Nanoseconds - tolerance); // it never goes back
        guest.Vm.Resume();
        Assert.True(guest.Vm.Memory.TryWrite((ulong)Go, 1u));
        Assert.InRange(Stamp(2), earliest, guest.Vm.Clock.Nanoseconds + tolerance);
        Assert.True(guest.Vm.Memory.TryWrite((ulong)Go, 2u));
        guest.Finish();

        // When the guest took its stamp, as its clock says.
        long Stamp(uint flag)
        {
            WaitFor(guest, () => Word(guest, Flag) >= flag);
            Span<byte> page = new byte[32], stamp = new byte[8];
            Assert.True(guest.Vm.Memory.Read(clock, page) && guest.Vm.Memory.Read(stamps + (flag - 1) * 8, stamp));
            ulong ticks = BinaryPrimitives.ReadUInt64LittleEndian(stamp) - BinaryPrimitives.ReadUInt64LittleEndian(page[8..]);
            uint multiplier = BinaryPrimitives.ReadUInt32LittleEndian(page[24..]);
            int shift = (sbyte)page[28];
            Assert.NotEqual(0u, multiplier);
            ticks = shift >= 0 ? ticks << shift : ticks >> -shift;
            return (long)(BinaryPrimitives.ReadUInt64LittleEndian(page[16..]) + (ulong)((UInt128)ticks * multiplier >> 32));
        }
    }

    [NeedsShortcuts]
    public void What_CPUID_does_not_name_of_the_paravirtual_interface_is_not_there()
    {
        foreach (bool held in (bool[])[false, true])
        {
            using var guest = new BoardGuest(Engine, held, (g, a) =>
            {
                a.mov(eax, 0x4000_0000);
                a.cpuid();
                a.mov(__dword_ptr[Flag], ebx);
                a.mov(__dword_ptr[Flag + 4], ecx);
                a.mov(__dword_ptr[Flag + 8], edx);
                a.mov(eax, 0x4000_0001);
                a.cpuid();
                a.mov(__dword_ptr[Flag + 12], eax);
                foreach (uint msr in (uint[])[SystemTime, EndOfInterruptMsr, AsynchronousFaults])
                {
                    a.mov(ebx, 0);
                    a.mov(ecx, msr);
                    a.rdmsr();
                    a.mov(eax, ebx);
                    Say(a);
                }
                End(a);
                g.Mark(a, "gp"); // RDMSR is two bytes long
                a.mov(ebx, 1);
                a.add(esp, 4);
                a.add(__dword_ptr[esp], 2);
                Return(a);
            }, g => g.Handle(X.GP, "gp"));
            byte[] faults = guest.Run();
            Span<byte> name = new byte[12];
            Assert.True(guest.Vm.Memory.Read((ulong)Flag, name));
            Assert.Equal("KVMKVMKVM\0\0\0"u8, name);
            uint features = Word(guest, Flag + 12);
            const uint clockAndStealTime = 1 << 3 | 1 << 5, needApic = 1 << 6 | 1 << 7 | 1 << 11 | 1 << 13, asynchronousFaults = 1 << 4 | 1 << 10 | 1 << 14;
            Assert.Equal(clockAndStealTime, features & clockAndStealTime);
            Assert.Equal(0u, features & asynchronousFaults);
            Assert.Equal(held, (features & needApic) != 0);
            Assert.Equal([0, held ? (byte)0 : (byte)1, 1], faults);
        }
    }
}
