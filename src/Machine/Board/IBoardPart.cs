using Bunraku.Hypervisor;
using Bunraku.Machine.Acpi;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Timers;
using Bunraku.Machine.Virtio;

namespace Bunraku.Machine.Board;

/// <summary>A piece of a board that attaches itself: a device, or several that belong together.</summary>
public interface IBoardPart
{
    /// <summary>
    /// Puts the part on a board: ports and memory on <see cref="IBoard.Machine"/>'s buses, wires, PCI functions, configuration items, and what ACPI tells of
    /// it. Once, before the guest runs. Registers and timers of a device share one <see cref="DeviceLock"/>, with which it is
    /// told to the machine, too (<see cref="VirtualMachine.Add(IDevice, DeviceLock?)"/>).
    /// </summary>
    void AttachTo(IBoard board);
}

/// <summary>What a board has for its parts.</summary>
public interface IBoard
{
    /// <summary>The machine around the board: buses, memory, timers, I/O threads.</summary>
    X86Machine Machine { get; }

    /// <summary>Bus 0. Parts put functions into free slots. Of a board without PCI nobody finds them.</summary>
    PciHost Pci { get; }

    /// <summary>Places for virtio devices on a board without PCI; null: they are PCI functions.</summary>
    VirtioMmioSlots? VirtioSlots { get; }

    /// <summary>Configuration items for firmware and kernels.</summary>
    FwCfg FwCfg { get; }

    /// <summary>What the guest is told of hardware that it cannot find by probing.</summary>
    AcpiDescription Acpi { get; }

    /// <summary>The wire of an ISA interrupt, 0 to 15 but 2. One device drives it.</summary>
    IInterruptLine IsaInterrupt(int irq);

    /// <summary>A source, not asserted, on the shared wire that the pin of a PCI slot leads to.</summary>
    /// <param name="slot">0 to 31.</param>
    /// <param name="pin">0 to 3: INTA to INTD.</param>
    IInterruptLine PciInterrupt(int slot, int pin);

    /// <summary>Delivers a message-signalled interrupt. Any thread.</summary>
    /// <param name="address">FEExxxxxh.</param>
    /// <param name="data">Vector, delivery and trigger mode.</param>
    void SendMessage(ulong address, uint data);

    /// <summary>Virtual time for a device, whose timers call back with its lock held.</summary>
    ITimeSource CreateTime(DeviceLock @lock);

    /// <summary>The guest resets the machine: returns at once. Any thread.</summary>
    void Reset();
}
