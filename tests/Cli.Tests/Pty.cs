using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Text;

namespace Bunraku.Cli.Tests;

/// <summary>A pseudo-terminal whose user is the test. The modes are read by stty, not by the code under test.</summary>
internal sealed unsafe partial class Pty : IDisposable
{
    private const int ReadWrite = 2, NoControllingTerminal = 0x100, CloseOnExec = 0x80000;

    public Pty()
    {
        Master = PosixOpenpt(ReadWrite | NoControllingTerminal | CloseOnExec);
        Assert.True(Master >= 0 && Grantpt(Master) == 0 && Unlockpt(Master) == 0);
        byte* name = stackalloc byte[64];
        Assert.Equal(0, PtsnameR(Master, name, 64));
        Name = Marshal.PtrToStringUTF8((nint)name)!;
        Slave = Open(Name, ReadWrite | NoControllingTerminal | CloseOnExec);
        Assert.True(Slave >= 0);
    }

    public int Master { get; }

    /// <summary>The program's side.</summary>
    public int Slave { get; }

    public string Name { get; }

    /// <summary>All modes, as stty writes them for itself.</summary>
    public string Modes => Stty("-g");

    /// <summary>All modes, for people.</summary>
    public string AllModes => Stty("-a");

    /// <summary>Who has the terminal is told.</summary>
    public void Resize(int rows, int columns) => Stty("rows", $"{rows}", "cols", $"{columns}");

    private string Stty(params string[] options)
    {
        using var process = Process.Start(new ProcessStartInfo("stty", ["-F", Name, .. options]) { RedirectStandardOutput = true })!;
        string text = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.Equal(0, process.ExitCode);
        return text;
    }

    public void Type(string keys)
    {
        byte[] bytes = Encoding.Latin1.GetBytes(keys);
        fixed (byte* p = bytes) Assert.Equal(bytes.Length, (int)Write(Master, p, (nuint)bytes.Length));
    }

    /// <summary>Reads what the terminal shows until <paramref name="text"/> is in it; fails at the end of output.</summary>
    /// <param name="times">How often it must come.</param>
    public string ReadUntil(string text, int times = 1)
    {
        var seen = new StringBuilder();
        byte* buffer = stackalloc byte[4096];
        while (seen.ToString().AsSpan().Count(text) < times)
        {
            var wait = new PollDescriptor { Descriptor = Master, Events = 1 }; // POLLIN
            Assert.True(Poll(&wait, 1, LongestWait) > 0, $"'{text}' did not come:\n{seen}");
            nint n = Read(Master, buffer, 4096);
            Assert.True(n > 0, $"the terminal closed before '{text}' came:\n{seen}");
            seen.Append(Encoding.Latin1.GetString(buffer, (int)n));
        }
        return seen.ToString();
    }

    public void Dispose()
    {
        _ = Close(Slave);
        _ = Close(Master);
    }

    /// <summary>Milliseconds without a byte, after which nothing is going to come.</summary>
    private const int LongestWait = 180_000;

    private struct PollDescriptor
    {
        public int Descriptor;
        public short Events, Returned;
    }

    [LibraryImport("libc", EntryPoint = "poll")]
    private static partial int Poll(PollDescriptor* descriptors, nuint count, int milliseconds);

    [LibraryImport("libc", EntryPoint = "posix_openpt")]
    private static partial int PosixOpenpt(int flags);

    [LibraryImport("libc", EntryPoint = "grantpt")]
    private static partial int Grantpt(int fd);

    [LibraryImport("libc", EntryPoint = "unlockpt")]
    private static partial int Unlockpt(int fd);

    [LibraryImport("libc", EntryPoint = "ptsname_r")]
    private static partial int PtsnameR(int fd, byte* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "read")]
    private static partial nint Read(int fd, void* buffer, nuint length);

    [LibraryImport("libc", EntryPoint = "write")]
    private static partial nint Write(int fd, void* buffer, nuint length);
}
