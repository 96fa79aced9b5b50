using System.Runtime.InteropServices;

namespace Bunraku.Platform;

/// <summary>
/// A descriptor of a device of the host, or one that such a device has made. What its requests mean is the caller's affair; this is only the way to the kernel.
/// </summary>
public sealed unsafe class DeviceFile : IDisposable
{
    private int _fd;

    private DeviceFile(int fd) => _fd = fd;

    /// <summary>Closes a descriptor that nobody has closed.</summary>
    ~DeviceFile() => Release();

    /// <summary>Opens a device for reading and writing. Null when it does not open.</summary>
    /// <param name="path">As "/dev/kvm".</param>
    /// <param name="errno">The error number (<see cref="Errno"/>); 0 when it opened.</param>
    public static DeviceFile? TryOpen(string path, out int errno)
    {
        int fd = Libc.Open(path, Libc.OpenReadWrite | Libc.OpenCloseOnExec, 0);
        errno = fd < 0 ? Marshal.GetLastPInvokeError() : 0;
        return fd < 0 ? null : new DeviceFile(fd);
    }

    /// <summary>Takes over a descriptor that a request has returned.</summary>
    /// <param name="descriptor">Nobody else closes it.</param>
    public static DeviceFile Adopt(int descriptor) => new(descriptor);

    /// <summary>ioctl. Any thread, as far as the device allows.</summary>
    /// <param name="request">Number of the request.</param>
    /// <param name="argument">A value, or the address of memory that the kernel reads or writes as the request says.</param>
    /// <returns>What the kernel returns, or minus the error number.</returns>
    public long Control(uint request, nuint argument)
    {
        int result = Libc.Ioctl(_fd, request, (void*)argument);
        return result >= 0 ? result : -Marshal.GetLastPInvokeError();
    }

    /// <summary>Its number, for <see cref="PollSet"/>; valid until it is disposed of.</summary>
    public int Descriptor => _fd;

    /// <summary>From now on <see cref="Read"/> and <see cref="Write"/> return where they would wait. False: the kernel refuses.</summary>
    public bool TrySetNonBlocking() => Libc.Fcntl(_fd, Libc.SetStatusFlags, Libc.NonBlocking) == 0;

    /// <summary>Reads once. The number of bytes, or minus the error number.</summary>
    public int Read(Span<byte> buffer)
    {
        fixed (byte* p = buffer) return Result(Libc.Read(_fd, p, (nuint)buffer.Length));
    }

    /// <summary>Writes once. The number of bytes, or minus the error number.</summary>
    public int Write(ReadOnlySpan<byte> bytes)
    {
        fixed (byte* p = bytes) return Result(Libc.Write(_fd, p, (nuint)bytes.Length));
    }

    private static int Result(nint n) => n >= 0 ? (int)n : -Marshal.GetLastPInvokeError();

    /// <summary>Maps the device's memory from offset 0 on, shared, for reading and writing. Null when the kernel refuses.</summary>
    /// <param name="length">Bytes.</param>
    /// <param name="errno">The error number; 0 when there was none.</param>
    public void* TryMap(nuint length, out int errno)
    {
        void* address = Libc.Mmap(null, length, Libc.ProtRead | Libc.ProtWrite, Libc.MapShared, _fd, 0);
        errno = address == Libc.MapFailed ? Marshal.GetLastPInvokeError() : 0;
        return address == Libc.MapFailed ? null : address;
    }

    /// <summary>Ends a mapping of <see cref="TryMap"/>; nobody uses it any more.</summary>
    /// <param name="address">What <see cref="TryMap"/> returned.</param>
    /// <param name="length">As there.</param>
    public static void Unmap(void* address, nuint length) => _ = Libc.Munmap(address, length);

    /// <summary>Closes the descriptor. Its mappings stay. Idempotent.</summary>
    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        if (_fd < 0) return;
        _ = Libc.Close(_fd);
        _fd = -1;
    }
}
