using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Display;

/// <summary>The display, in the first slot behind the bridges, where firmware and people expect it.</summary>
/// <param name="memory">With a region that is a device's.</param>
/// <param name="map">Shows it.</param>
/// <param name="rom">The option ROM; null: there is none.</param>
internal sealed class DisplayPart(GuestMemory memory, MemoryMap map, byte[]? rom) : IBoardPart
{
    private const int Slot = 2;

    public VgaController Controller { get; } = new(memory, rom);

    public void AttachTo(IBoard board) => Controller.AttachTo(board, Slot, map);
}
