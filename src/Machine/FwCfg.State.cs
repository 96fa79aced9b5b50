using Bunraku.Engines;

namespace Bunraku.Machine;

/// <summary>
/// State of a <see cref="FwCfg"/>. Items that the guest cannot write are part of the machine's shape: only their lengths are in it, for comparison.
/// </summary>
/// <param name="FilesNumbered">The guest has looked: the files have their keys.</param>
/// <param name="Selected">Key of the selected item.</param>
/// <param name="Position">Offset in it.</param>
/// <param name="DmaHigh">Upper half of the DMA address.</param>
/// <param name="Lengths">Bytes of each item, by key.</param>
/// <param name="Written">Contents of the writable items, by key.</param>
[StateRecord("fwcfg", version: 1)]
internal sealed record FwCfgState(bool FilesNumbered, ushort Selected, long Position, uint DmaHigh, SortedDictionary<ushort, int> Lengths,
    SortedDictionary<ushort, byte[]> Written);

public sealed partial class FwCfg
{
    /// <summary>Contents of writable items before the guest wrote to them, by key.</summary>
    private readonly Dictionary<ushort, byte[]> _original = [];

    /// <inheritdoc/>
    public string Id => "fwcfg";

    /// <inheritdoc/>
    public void Reset()
    {
        (_selected, _position, _dmaHigh) = (0, 0, 0);
        foreach ((ushort key, byte[] data) in _original) data.CopyTo(_items[key].Data, 0);
        _original.Clear();
        if (!_filesNumbered) return;
        // The next guest looks anew; until then files can be added.
        _filesNumbered = false;
        _items.Remove((ushort)FwCfgKey.FileDirectory);
        for (int n = 0; n < _files.Count; n++) _items.Remove((ushort)((int)FwCfgKey.FirstFile + n));
    }

    FwCfgState IStateful<FwCfgState>.Save() => new(
        _filesNumbered, _selected, _position, _dmaHigh, new(_items.ToDictionary(i => i.Key, i => i.Value.Data.Length)),
        new(_items.Where(i => i.Value.Writable).ToDictionary(i => i.Key, i => i.Value.Data.ToArray())));

    void IStateful<FwCfgState>.Restore(FwCfgState state)
    {
        if (state.FilesNumbered) NumberFiles();
        else if (_filesNumbered) throw new StateFormatException($"{Id}: this machine's guest was told of the files already; restore in a new machine");
        foreach ((ushort key, Item item) in _items)
        {
            if (!state.Lengths.TryGetValue(key, out int length) || length != item.Data.Length)
                throw new StateFormatException($"{Id}: item {key:X4} has {item.Data.Length} bytes, "
                    + $"{(state.Lengths.ContainsKey(key) ? $"{length} in the saved machine" : "and the saved machine has none")}");
            if (item.Writable) StateCheck.Length(state.Written.GetValueOrDefault(key) ?? [], length, Id).CopyTo(item.Data, 0);
        }
        if (state.Lengths.Count != _items.Count)
            throw new StateFormatException($"{Id}: the saved machine has {state.Lengths.Count} items, this one {_items.Count}");
        (_selected, _position, _dmaHigh) = (state.Selected, StateCheck.Range(state.Position, 0, int.MaxValue, Id), state.DmaHigh);
    }
}
