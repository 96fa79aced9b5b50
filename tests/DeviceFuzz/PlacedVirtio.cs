using Bunraku.Machine.Board;
using Bunraku.Machine.Pci;
using Bunraku.Machine.Virtio;

namespace Bunraku.DeviceFuzz;

/// <summary>A virtio device whose registers lie at an address from the start, so that a guest that tries addresses at random finds them.</summary>
internal sealed class PlacedVirtio(VirtioDevice device, int slot, uint address) : IBoardPart
{
    /// <summary>Bytes of its structures.</summary>
    public const uint Length = 0x4000;

    public void AttachTo(IBoard board)
    {
        var function = new VirtioPci(device);
        function.AttachTo(board, slot);
        function.WriteConfig(PciRegister.FirstBar, 4, address);
        function.WriteConfig(PciRegister.FirstBar + 4, 4, address + Length);
        function.WriteConfig(PciRegister.Command, 2, (uint)(PciCommand.MemorySpace | PciCommand.BusMaster));
    }
}

/// <summary>The same for one that is no PCI function.</summary>
internal sealed class PlacedInMemory(VirtioDevice device, int slot, uint address) : IBoardPart
{
    public void AttachTo(IBoard board) => new VirtioMmio(device).AttachTo(board.Machine, address, board.PciInterrupt(slot, 0));
}
