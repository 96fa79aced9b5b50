using Bunraku.Machine.Board;

namespace Bunraku.Machine.Virtio;

/// <summary>A virtio device in a PCI slot of a board, or in memory where the board has no PCI.</summary>
/// <param name="device">What it is.</param>
/// <param name="slot">Device number on bus 0, 1 to 31; null: the first that is free.</param>
public sealed class VirtioPart(VirtioDevice device, int? slot = null) : IBoardPart
{
    /// <inheritdoc/>
    public void AttachTo(IBoard board)
    {
        if (board.VirtioSlots is { } slots) slots.Add(device);
        else new VirtioPci(device).AttachTo(board, slot ?? board.Pci.FindFreeSlot());
    }
}
