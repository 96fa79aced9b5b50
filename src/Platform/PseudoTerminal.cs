using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Bunraku.Platform;

/// <summary>A new terminal whose other end is here: whoever opens <see cref="Path"/> talks with who holds this. Linux manual page pty(7). Any thread.</summary>
public sealed unsafe class PseudoTerminal : IDisposable
{
    private readonly SafeFileHandle _master;
    private readonly Terminal? _terminal;

    /// <exception cref="IOException">The host gives none.</exception>
    public PseudoTerminal()
    {
        _master = File.OpenHandle("/dev/ptmx", FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        int locked = 0, number = 0;
        if (Libc.Ioctl(Descriptor, Libc.Tiocsptlck, &locked) != 0 || Libc.Ioctl(Descriptor, Libc.Tiocgptn, &number) != 0)
        {
            var failure = new Win32Exception(Marshal.GetLastPInvokeError());
            _master.Dispose();
            throw new IOException(failure.Message, failure);
        }
        Path = $"/dev/pts/{number}";
        _terminal = Terminal.Open(Descriptor);
        _terminal?.EnterRaw(); // both ends have the same modes: what the guest echoes is not echoed twice
    }

    /// <summary>What others open.</summary>
    public string Path { get; }

    /// <summary>This end, as long as this object lives.</summary>
    public int Descriptor => (int)_master.DangerousGetHandle();

    /// <summary>Both ends are gone.</summary>
    public void Dispose()
    {
        _terminal?.Dispose();
        _master.Dispose();
    }
}
