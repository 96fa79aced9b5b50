using Bunraku.Hypervisor;

namespace Bunraku.Machine.Board;

/// <summary>Several sources on one interrupt wire: asserted while any of them is. With the machine lock held.</summary>
public sealed class SharedWire(IInterruptLine wire)
{
    private int _asserted;

    /// <summary>A new source, not asserted.</summary>
    public IInterruptLine Connect() => new Source(this);

    private void Change(int by)
    {
        _asserted += by;
        wire.Set(_asserted != 0);
    }

    private sealed class Source(SharedWire owner) : IInterruptLine
    {
        private bool _asserted;

        public void Set(bool asserted)
        {
            if (asserted == _asserted) return;
            _asserted = asserted;
            owner.Change(asserted ? 1 : -1);
        }
    }
}

/// <summary>A wire that can be cut: what is behind it then sees it low. With the machine lock held.</summary>
internal sealed class Gate(IInterruptLine wire) : IInterruptLine
{
    private bool _asserted, _cut;

    public bool Cut
    {
        get => _cut;
        set
        {
            if (value == _cut) return;
            _cut = value;
            wire.Set(_asserted && !_cut);
        }
    }

    public void Set(bool asserted)
    {
        _asserted = asserted;
        if (!_cut) wire.Set(asserted);
    }
}
