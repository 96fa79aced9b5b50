using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Timers;

namespace Bunraku.Machine.Board.Parts;

/// <summary>What shares the wires of IRQ 0 and 8, and what hangs on the real-time clock: 8254, clock, HPET, ACPI's power management.</summary>
/// <param name="startTime">What the clock shows at the start.</param>
/// <param name="powerOff">The guest entered S5.</param>
internal sealed class LegacyTimers(DateTime startTime, Action powerOff) : IBoardPart
{
    private const int PitIrq = 0, ClockIrq = 8, FirstHpetInput = 20;

    public Pit8254 Pit { get; private set; } = null!;
    public Rtc146818 Clock { get; private set; } = null!;
    public Hpet Hpet { get; private set; } = null!;
    public PowerManagement Power { get; private set; } = null!;

    /// <summary>Held by who presses the power button.</summary>
    public DeviceLock PowerLock { get; } = new("power management");

    public void AttachTo(IBoard board)
    {
        X86Machine vm = board.Machine;
        DeviceLock pitLock = new("8254"), clockLock = new("real-time clock"), hpetLock = new("HPET");
        IInterruptLine pitLine = board.IsaInterrupt(PitIrq), clockLine = board.IsaInterrupt(ClockIrq);
        Gate pitWire = new("gate.pit", pitLine, vm.InterruptLock), clockWire = new("gate.rtc", clockLine, vm.InterruptLock);
        vm.Add(pitWire, vm.InterruptLock);
        vm.Add(clockWire, vm.InterruptLock);

        Pit = new Pit8254(pitWire, board.CreateTime(pitLock));
        Pit.AttachTo(vm.Ports, pitLock);
        vm.Add(Pit, pitLock);

        Power = new PowerManagement(board.CreateTime(PowerLock), board.IsaInterrupt(PowerManagement.SciInterrupt), powerOff);
        vm.Ports.Add(PowerManagement.FirstPort, PowerManagement.Ports, Power, PowerLock);
        vm.Add(Power, PowerLock);

        var clockWires = new FanOut([clockWire, new LockedWire(Power.RealTimeClock, PowerLock)]);
        Clock = new Rtc146818(clockWires, board.CreateTime(clockLock), startTime, vm.Memory.RamSize);
        Clock.AttachTo(vm.Ports, clockLock);
        vm.Add(Clock, clockLock);
        vm.Shortcuts?.TryPostWrites(isPort: true, Rtc146818.IndexPort, 1); // what it does shows only when the data port is read

        // The inputs that PCI slots use too.
        var routes = new IInterruptLine?[Interrupts.IoApic.Pins];
        for (int input = FirstHpetInput; input < routes.Length; input++) routes[input] = board.PciInterrupt(input - Dsdt.FirstPciInput, 0);
        Hpet = new Hpet(board.CreateTime(hpetLock), routes, [pitLine, clockLine], replace => pitWire.Cut = clockWire.Cut = replace, board.SendMessage);
        vm.Mmio.Add(MemoryLayout.Hpet, Hpet.Length, Hpet, hpetLock);
        vm.Add(Hpet, hpetLock);
        Describe(board.Acpi);
    }

    internal static void Describe(AcpiDescription acpi)
    {
        acpi.AddIsaDevice("PIT", "PNP0100", r => r.Ports(Pit8254.FirstPort, 4).Irq(PitIrq));
        acpi.AddIsaDevice("SPKR", "PNP0800", r => r.Ports(0x61, 1));
        acpi.AddIsaDevice("RTC", "PNP0B00", r => r.Ports(Rtc146818.IndexPort, 2).Irq(ClockIrq));
        acpi.AddSystemDevice("HPET", "PNP0103", r => r.Memory((uint)MemoryLayout.Hpet, (uint)Hpet.Length), uid: 0);
        acpi.AddTable("HPET", 1, AcpiTables.MakeHpet());
        acpi.AddInterruptOverride(PowerManagement.SciInterrupt, PowerManagement.SciInterrupt, AcpiDescription.ActiveHighLevel);
        acpi.Reserve(r => r.Ports(PowerManagement.FirstPort, PowerManagement.Ports));
    }
}
