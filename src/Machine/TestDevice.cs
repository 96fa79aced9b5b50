using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>
/// QEMU's pc-testdev (hw/misc/pc-testdev.c) at its customary places, for kvm-unit-tests: four scratch bytes at ports E0h to E3h, the ISA interrupt
/// wires at ports 2000h to 200Fh (a write of anything but 0 asserts), and memory at FF000000h that is a device. With its lock held.
/// </summary>
public static class TestDevice
{
    public const ushort ScratchPort = 0xE0, FlushPort = 0xE4, InterruptPort = 0x2000;
    public const ulong MemoryBase = 0xFF00_0000, MemoryLength = 0x1_0000;

    private const int ScratchBytes = 4, FlushBytes = 4, Interrupts = 16, CascadeIrq = 2;

    /// <summary>Adds the device to a board. Before the VM starts.</summary>
    public static void AttachTo(VirtualMachine vm, IsaInterrupts interrupts)
    {
        byte[] scratch = new byte[ScratchBytes];
        vm.Ports.Add(ScratchPort, ScratchBytes, new ByteRegisters(n => scratch[n], (n, value) => scratch[n] = value));
        // QEMU takes away the host page whose guest address is written here, so that an accelerator's tables miss; a guest sees nothing of that.
        vm.Ports.Add(FlushPort, FlushBytes, new ByteRegisters(_ => 0, (_, _) => { }));
        vm.Ports.Add(InterruptPort, Interrupts, new Wires(interrupts));
        vm.Mmio.Add(MemoryBase, MemoryLength, new DeviceMemory());
    }

    /// <summary>A write of any width moves the one wire that it addresses.</summary>
    private sealed class Wires(IsaInterrupts interrupts) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size) => 0;

        public void WritePort(ushort offset, int size, uint value)
        {
            if (offset != CascadeIrq) interrupts[offset].Set(value != 0);
        }
    }

    private sealed class DeviceMemory : IMmioDevice
    {
        private readonly byte[] _bytes = new byte[MemoryLength];

        public ulong ReadMmio(ulong offset, int size)
        {
            ulong value = 0;
            for (int n = 0; n < size; n++) value |= (ulong)_bytes[(int)offset + n] << (8 * n);
            return value;
        }

        public void WriteMmio(ulong offset, int size, ulong value)
        {
            for (int n = 0; n < size; n++) _bytes[(int)offset + n] = (byte)(value >> (8 * n));
        }
    }
}
