using Bunraku.Engines;
using Bunraku.Hypervisor;
using Bunraku.Machine.Board;

namespace Bunraku.Machine;

/// <summary>State of a <see cref="TestDevice"/>.</summary>
/// <param name="Scratch">The four bytes.</param>
/// <param name="Memory">The device memory up to its last byte that is not 0.</param>
[StateRecord("pc-testdev", version: 1)]
internal sealed record TestDeviceState(byte[] Scratch, byte[] Memory);

/// <summary>
/// QEMU's pc-testdev (hw/misc/pc-testdev.c) at its customary places, for kvm-unit-tests: four scratch bytes at ports E0h to E3h, the ISA interrupt
/// wires at ports 2000h to 200Fh (a write of anything but 0 asserts), and memory at FF000000h that is a device. With its lock held.
/// </summary>
internal sealed class TestDevice(IBoard board) : IMmioDevice, IDevice, IStateful<TestDeviceState>
{
    public const ushort ScratchPort = 0xE0, FlushPort = 0xE4, InterruptPort = 0x2000;
    public const ulong MemoryBase = 0xFF00_0000, MemoryLength = 0x1_0000;

    private const int ScratchBytes = 4, FlushBytes = 4, Interrupts = 16, CascadeIrq = 2;

    private readonly byte[] _scratch = new byte[ScratchBytes], _memory = new byte[MemoryLength];

    /// <summary>Puts the device in its places. Before the VM starts.</summary>
    public void Attach()
    {
        X86Machine vm = board.Machine;
        vm.Ports.Add(ScratchPort, ScratchBytes, new ByteRegisters(n => _scratch[n], (n, value) => _scratch[n] = value));
        // QEMU takes away the host page whose guest address is written here, so that an accelerator's tables miss; a guest sees nothing of that.
        vm.Ports.Add(FlushPort, FlushBytes, new ByteRegisters(_ => 0, (_, _) => { }));
        vm.Ports.Add(InterruptPort, Interrupts, new Wires(board));
        vm.Mmio.Add(MemoryBase, MemoryLength, this);
        vm.Add(this);
    }

    /// <inheritdoc/>
    public string Id => "testdev";

    /// <inheritdoc/>
    public void Reset()
    {
        Array.Clear(_scratch);
        Array.Clear(_memory);
        for (int irq = 0; irq < Interrupts; irq++)
        {
            if (irq != CascadeIrq) board.IsaInterrupt(irq).Set(false);
        }
    }

    TestDeviceState IStateful<TestDeviceState>.Save() => new([.. _scratch], _memory[..(_memory.AsSpan().LastIndexOfAnyExcept((byte)0) + 1)]);

    void IStateful<TestDeviceState>.Restore(TestDeviceState state)
    {
        StateCheck.Length(state.Scratch, ScratchBytes, Id).CopyTo(_scratch, 0);
        StateCheck.Range(state.Memory.Length, 0, _memory.Length, Id);
        Array.Clear(_memory);
        state.Memory.CopyTo(_memory, 0);
    }

    /// <inheritdoc/>
    public ulong ReadMmio(ulong offset, int size)
    {
        ulong value = 0;
        for (int n = 0; n < size; n++) value |= (ulong)_memory[(int)offset + n] << (8 * n);
        return value;
    }

    /// <inheritdoc/>
    public void WriteMmio(ulong offset, int size, ulong value)
    {
        for (int n = 0; n < size; n++) _memory[(int)offset + n] = (byte)(value >> (8 * n));
    }

    /// <summary>A write of any width moves the one wire that it addresses.</summary>
    private sealed class Wires(IBoard board) : IPortDevice
    {
        public uint ReadPort(ushort offset, int size) => 0;

        public void WritePort(ushort offset, int size, uint value)
        {
            if (offset != CascadeIrq) board.IsaInterrupt(offset).Set(value != 0);
        }
    }
}
