using Bunraku.Platform;

namespace Bunraku.Processor.X86;

/// <summary>
/// Pages of guest RAM as they lie in linear addresses, seen through windows of 1 GiB: all pages of one window have the same distance between host and linear
/// address, so that a chain of dependent loads need not wait for it. It permits nothing: a first-level entry does, and may name the page's place in a window
/// instead of the one in the guest's RAM. One thread.
/// </summary>
/// <remarks>
/// Invariant: while a first-level entry names a place in a window, that place shows the entry's page. Hence the first level is dropped before a place shows
/// another page, and before a window is cleared.
/// </remarks>
internal sealed unsafe class LinearMirror(RamBacking memory, Action dropFirstLevel) : IDisposable
{
    /// <summary>Pages in all windows: each is a mapping of the host, of which a process has some 65,000.</summary>
    private const int MostPages = 4096;
    private const int Windows = 8, WindowShift = 30;

    private struct Window
    {
        public AddressWindow? Space;
        /// <summary>Linear address of its first byte.</summary>
        public ulong Linear;
        /// <summary>What is shown at each page that shows something: page to offset in the memory.</summary>
        public Dictionary<ulong, ulong> Shown;
    }

    private readonly Window[] _windows = new Window[Windows];
    private int _pages;

    /// <summary>Host minus linear address for the page at <paramref name="linear"/>, which is the memory's page at <paramref name="page"/>.</summary>
    /// <param name="made">The host had to be asked.</param>
    /// <returns>False: the memory has one address only, or the host refuses.</returns>
    public bool TryShow(ulong linear, byte* page, out ulong addend, out bool made)
    {
        ref Window w = ref _windows[(linear >> WindowShift) % Windows];
        ulong start = linear >> WindowShift << WindowShift, offset = linear - start, source = (ulong)(page - memory.Pointer);
        addend = 0;
        made = false;
        if (!memory.IsShared) return false;
        if (w.Space == null)
        {
            made = true;
            if (AddressWindow.TryCreate(memory, 1ul << WindowShift) is not { } space) return false;
            w = new Window { Space = space, Linear = start, Shown = [] };
        }
        addend = (ulong)w.Space.Pointer - start;
        bool here = w.Linear == start;
        ulong old = 0;
        bool shown = here && w.Shown.TryGetValue(offset, out old);
        if (shown && old == source) return true;
        made = true;
        if (!here || _pages == MostPages) Clear();
        else if (shown) dropFirstLevel();
        w.Linear = start;
        if (w.Shown.Remove(offset)) _pages--;
        if (!w.Space.TryShow(offset, source)) return false;
        w.Shown.Add(offset, source);
        _pages++;
        return true;
    }

    /// <summary>The place in the guest's RAM of what is at <paramref name="place"/>, which may be a window's.</summary>
    public byte* PageAt(byte* place)
    {
        foreach (ref readonly Window w in _windows.AsSpan())
        {
            if (w.Space == null || (ulong)(place - w.Space.Pointer) >= w.Space.Length) continue;
            return w.Shown.TryGetValue((ulong)(place - w.Space.Pointer), out ulong source) ? memory.Pointer + source : null;
        }
        return place;
    }

    /// <summary>Takes all pages away.</summary>
    private void Clear()
    {
        dropFirstLevel();
        foreach (ref Window w in _windows.AsSpan())
        {
            w.Space?.Clear();
            w.Shown?.Clear();
        }
        _pages = 0;
    }

    public void Dispose()
    {
        foreach (ref readonly Window w in _windows.AsSpan()) w.Space?.Dispose();
    }
}
