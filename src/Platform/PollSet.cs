namespace Bunraku.Platform;

/// <summary>What a descriptor is asked for, or has: Linux manual page poll(2).</summary>
[Flags]
public enum PollEvents : short
{
    /// <summary>There is something to be read.</summary>
    In = 1,
    /// <summary>Something urgent.</summary>
    Urgent = 2,
    /// <summary>There is room.</summary>
    Out = 4,
    /// <summary>Answer only.</summary>
    Error = 8,
    /// <summary>Answer only: nobody is at the other end.</summary>
    Hangup = 16,
    /// <summary>Answer only: it is no descriptor.</summary>
    Invalid = 32,
}

/// <summary>A list of descriptors to wait for. One thread.</summary>
public sealed unsafe class PollSet
{
    private Libc.PollDescriptor[] _all = new Libc.PollDescriptor[16];
    private int _count;

    /// <summary>Begins a new list.</summary>
    public void Clear() => _count = 0;

    /// <summary>Adds a descriptor; returns its index in the list.</summary>
    public int Add(int descriptor, PollEvents events)
    {
        if (_count == _all.Length) Array.Resize(ref _all, 2 * _count);
        _all[_count] = new Libc.PollDescriptor { Fd = descriptor, Events = (short)events };
        return _count++;
    }

    /// <summary>Waits until one of them has something, or the time is over. False: the host refuses, and there are no results.</summary>
    /// <param name="milliseconds">−1: as long as it takes.</param>
    public bool Wait(int milliseconds)
    {
        fixed (Libc.PollDescriptor* p = _all)
        {
            if (Libc.Poll(p, (nuint)_count, milliseconds) >= 0) return true;
        }
        for (int n = 0; n < _count; n++) _all[n].Returned = 0;
        return false;
    }

    /// <summary>What a descriptor has.</summary>
    /// <param name="index">As <see cref="Add"/> returned it; any other one has nothing.</param>
    public PollEvents Result(int index) => (uint)index < (uint)_count ? (PollEvents)_all[index].Returned : 0;
}
