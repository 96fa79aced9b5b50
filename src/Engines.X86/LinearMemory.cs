namespace Bunraku.Engines.X86;

/// <summary>
/// Reads and writes guest memory by linear address for people who debug: no permission checks, no accessed or dirty bits, no engine.
/// The vCPU that the state belongs to must stand still.
/// </summary>
/// <remarks>How addresses are translated: <see cref="PagingWalk"/>.</remarks>
public static class LinearMemory
{
    /// <summary>Copies bytes from <paramref name="linear"/> on; returns how many could be read before an unmapped page.</summary>
    public static int Read(GuestMemory memory, CpuState state, ulong linear, Span<byte> destination)
    {
        int done = 0;
        while (done < destination.Length)
        {
            if (!TryTranslate(memory, state, linear, out ulong physical)) break;
            int n = Math.Min(destination.Length - done, (int)(GuestMemory.PageSize - (linear & (GuestMemory.PageSize - 1))));
            if (!memory.Read(physical, destination.Slice(done, n))) break;
            done += n;
            linear += (ulong)n;
        }
        return done;
    }

    /// <summary>
    /// Writes bytes from <paramref name="linear"/> on, as a device would, whether or not the page may be written; returns how many could be written before an
    /// unmapped page, ROM or a device.
    /// </summary>
    public static int Write(GuestMemory memory, CpuState state, ulong linear, ReadOnlySpan<byte> source)
    {
        int done = 0;
        while (done < source.Length)
        {
            if (!TryTranslate(memory, state, linear, out ulong physical)) break;
            int n = Math.Min(source.Length - done, (int)(GuestMemory.PageSize - (linear & (GuestMemory.PageSize - 1))));
            if (!memory.Write(physical, source.Slice(done, n))) break;
            done += n;
            linear += (ulong)n;
        }
        return done;
    }

    /// <summary>The address in the memory of the machine behind <paramref name="linear"/>, through both stages; false when it is not mapped.</summary>
    public static bool TryTranslate(GuestMemory memory, CpuState state, ulong linear, out ulong physical)
    {
        ulong? found = PagingWalk.Translate(memory, state, linear);
        physical = found ?? 0;
        return found != null;
    }
}
