using Bunraku.Engines;

namespace Bunraku.Machine.Board;

/// <summary>
/// What of the machine's memory shows where, put together of what several parts of a board say: RAM and ROM, the first mebibyte of which firmware arranges, and
/// a display's memory where nothing of the board is. Thread-safe; the lock is taken inside a device's, and vCPUs are waited for with it held.
/// </summary>
internal sealed class MemoryMap
{
    private readonly GuestMemory _memory;
    private readonly MemoryRegion[] _above; // RAM and ROM from 1 MiB on, without the flash memory
    private readonly Lock _lock = new();
    private MemoryRegion[] _low;
    private MemoryRegion[] _display = [];

    /// <param name="memory">With the regions of a <see cref="MemoryLayout"/>. Where one is a device's, it is not shown yet, nor what lies in the video hole.
    /// </param>
    /// <param name="flash">Bytes of flash memory, with which the ROM begins.</param>
    public MemoryMap(GuestMemory memory, ulong flash = 0)
    {
        _memory = memory;
        _above = [.. memory.InitialRegions.Where(r => r.Start >= MemoryLayout.HighMemory && !r.IsDevice)];
        if (flash > 0)
        {
            int place = Array.FindIndex(_above, r => r.End == MemoryLayout.FirmwareEnd);
            MemoryRegion rom = _above[place];
            Flash = rom with { Length = flash };
            _above[place] = new(rom.Start + flash, rom.Length - flash, rom.Offset + flash, IsReadOnly: true);
        }
        _low = [new(0, MemoryLayout.VideoHole, 0, false),
            new(MemoryLayout.VideoHoleEnd, MemoryLayout.HighMemory - MemoryLayout.VideoHoleEnd, MemoryLayout.VideoHoleEnd, false)];
        if (flash > 0 || memory.InitialRegions.Any(r => r.IsDevice)) Update();
    }

    /// <summary>The first mebibyte.</summary>
    /// <param name="regions">In order, none in the video hole.</param>
    public void ShowLow(IReadOnlyList<MemoryRegion> regions)
    {
        lock (_lock)
        {
            _low = [.. regions];
            Update();
        }
    }

    /// <summary>The flash memory, where a device answers; empty where there is none.</summary>
    public MemoryRegion Flash { get; }

    /// <summary>A display's memory: it shows where neither RAM nor ROM nor the interrupt controllers and timers are.</summary>
    /// <param name="frameBuffer">All of it, wherever the guest wants it; null: nowhere.</param>
    /// <param name="window">A part of it in the video hole; null: a device answers there.</param>
    public void ShowDisplay(MemoryRegion? frameBuffer, MemoryRegion? window)
    {
        lock (_lock)
        {
            if (frameBuffer is { } f && (f.End > MemoryLayout.PciWindowEnd || f.Start < MemoryLayout.HighMemory || Array.Exists(_above, r => Overlap(r, f))))
                frameBuffer = null;
            MemoryRegion[] next = [.. ((MemoryRegion?[])[window, frameBuffer]).OfType<MemoryRegion>()];
            if (next.AsSpan().SequenceEqual(_display)) return;
            _display = next;
            Update();
        }
    }

    private static bool Overlap(in MemoryRegion a, in MemoryRegion b) => a.Start < b.End && b.Start < a.End;

    private void Update() => _memory.Map([.. _low.Concat(_above).Concat(_display).OrderBy(r => r.Start)]);
}
