using Bunraku.Engines;
using Bunraku.Hypervisor;

namespace Bunraku.Machine.Board;

/// <summary>Several sources on one interrupt wire: asserted while any of them is.</summary>
/// <param name="id">Its name in the machine.</param>
/// <param name="lock">That of the interrupt controllers, which guards the wire; the sources take it.</param>
internal sealed class SharedWire(string id, IInterruptLine wire, DeviceLock @lock) : IDevice, IStateful<SharedWireState>
{
    private readonly List<Source> _sources = [];
    private int _asserted;

    /// <inheritdoc/>
    public string Id => id;

    /// <summary>A new source, not asserted.</summary>
    public IInterruptLine Connect()
    {
        _sources.Add(new Source(this));
        return _sources[^1];
    }

    /// <summary>The sources let go by themselves.</summary>
    public void Reset()
    {
    }

    SharedWireState IStateful<SharedWireState>.Save() => new([.. _sources.Select(s => s.Asserted)]);

    void IStateful<SharedWireState>.Restore(SharedWireState state)
    {
        StateCheck.Length(state.Sources, _sources.Count, Id);
        for (int n = 0; n < _sources.Count; n++) _sources[n].Asserted = state.Sources[n];
        _asserted = _sources.Count(s => s.Asserted);
    }

    private void Change(int by)
    {
        lock (@lock)
        {
            _asserted += by;
            wire.Set(_asserted != 0);
        }
    }

    private sealed class Source(SharedWire owner) : IInterruptLine
    {
        public bool Asserted { get; set; }

        public void Set(bool asserted)
        {
            if (asserted == Asserted) return;
            Asserted = asserted;
            owner.Change(asserted ? 1 : -1);
        }
    }
}

/// <summary>One source that leads to several places.</summary>
internal sealed class FanOut(IReadOnlyList<IInterruptLine> lines) : IInterruptLine
{
    public void Set(bool asserted)
    {
        foreach (IInterruptLine line in lines) line.Set(asserted);
    }
}

/// <summary>A wire to a device with a lock of its own.</summary>
internal sealed class LockedWire(IInterruptLine wire, DeviceLock @lock) : IInterruptLine
{
    public void Set(bool asserted)
    {
        lock (@lock) wire.Set(asserted);
    }
}

/// <summary>A wire that can be cut: what is behind it then sees it low.</summary>
/// <param name="id">Its name in the machine.</param>
/// <param name="lock">That of the interrupt controllers: the wire is moved by one device and cut by another.</param>
internal sealed class Gate(string id, IInterruptLine wire, DeviceLock @lock) : IInterruptLine, IDevice, IStateful<GateState>
{
    private bool _asserted, _cut;

    public string Id => id;

    /// <summary>Both ends let go by themselves.</summary>
    public void Reset()
    {
    }

    GateState IStateful<GateState>.Save() => new(_asserted, _cut);

    void IStateful<GateState>.Restore(GateState state) => (_asserted, _cut) = (state.Asserted, state.Cut);

    public bool Cut
    {
        get => _cut;
        set
        {
            lock (@lock)
            {
                if (value == _cut) return;
                _cut = value;
                wire.Set(_asserted && !_cut);
            }
        }
    }

    public void Set(bool asserted)
    {
        lock (@lock)
        {
            _asserted = asserted;
            if (!_cut) wire.Set(asserted);
        }
    }
}

/// <summary>State of a <see cref="SharedWire"/>: which sources assert it, in the order in which they were connected.</summary>
[StateRecord("wire", version: 1)]
internal sealed record SharedWireState(bool[] Sources);

/// <summary>State of a <see cref="Gate"/>.</summary>
[StateRecord("gate", version: 1)]
internal sealed record GateState(bool Asserted, bool Cut);
