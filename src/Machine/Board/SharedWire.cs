using Bunraku.Hypervisor;

namespace Bunraku.Machine.Board;

/// <summary>Several sources on one interrupt wire: asserted while any of them is.</summary>
/// <param name="lock">That of the interrupt controllers, which guards the wire; the sources take it.</param>
public sealed class SharedWire(IInterruptLine wire, DeviceLock @lock)
{
    private int _asserted;

    /// <summary>A new source, not asserted.</summary>
    public IInterruptLine Connect() => new Source(this);

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
        private bool _asserted;

        public void Set(bool asserted)
        {
            if (asserted == _asserted) return;
            _asserted = asserted;
            owner.Change(asserted ? 1 : -1);
        }
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
/// <param name="lock">That of the interrupt controllers: the wire is moved by one device and cut by another.</param>
internal sealed class Gate(IInterruptLine wire, DeviceLock @lock) : IInterruptLine
{
    private bool _asserted, _cut;

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
