using System.Diagnostics;
using System.Net.Sockets;

namespace Bunraku.Machine.Tests;

/// <summary>One run of QEMU with two serial ports whose output is kept. Both take input.</summary>
internal sealed class Qemu : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-qemu").FullName;
    private readonly Process _process;
    private readonly Socket _com1, _com2;
    private readonly Task<byte[]> _com1Output, _com2Output;

    /// <param name="com1">Sees COM1's output as it comes.</param>
    public Qemu(Action<ReadOnlySpan<byte>>? com1, params string[] arguments)
    {
        using Socket listen1 = Listen("com1"), listen2 = Listen("com2");
        _process = Process.Start(new ProcessStartInfo("qemu-system-x86_64",
        [
            "-accel", "tcg", "-display", "none", "-nodefaults", "-no-reboot",
            "-serial", $"unix:{_folder}/com1", "-serial", $"unix:{_folder}/com2", .. arguments,
        ])
        { RedirectStandardError = true })!;
        _com1 = listen1.Accept();
        _com2 = listen2.Accept();
        _com1Output = ReadAll(_com1, com1);
        _com2Output = ReadAll(_com2, null);
    }

    public void SendCom1(ReadOnlySpan<byte> bytes) => _com1.Send(bytes);

    public void SendCom2(ReadOnlySpan<byte> bytes) => _com2.Send(bytes);

    /// <summary>Ends the machine once <paramref name="signal"/> is set.</summary>
    public void EndAfter(ManualResetEventSlim signal)
    {
        if (!signal.Wait(TimeSpan.FromMinutes(2)) && _process.HasExited) return;
        _process.Kill();
    }

    /// <summary>Waits for the machine's end; returns what the two ports sent.</summary>
    public (byte[] Com1, byte[] Com2) Finish()
    {
        if (!_process.WaitForExit(TimeSpan.FromMinutes(3)))
        {
            _process.Kill();
            throw new TimeoutException("QEMU did not end in three minutes");
        }
        return (_com1Output.Result, _com2Output.Result);
    }

    /// <summary>Exit status after <see cref="Finish"/>.</summary>
    public int Status => _process.ExitCode;


    private Socket Listen(string name)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Bind(new UnixDomainSocketEndPoint(Path.Combine(_folder, name)));
        socket.Listen(1);
        return socket;
    }

    private static Task<byte[]> ReadAll(Socket socket, Action<ReadOnlySpan<byte>>? watch) => Task.Run(() =>
    {
        using var stream = new NetworkStream(socket, ownsSocket: true);
        var all = new MemoryStream();
        byte[] buffer = new byte[4096];
        while (stream.Read(buffer) is > 0 and var n)
        {
            all.Write(buffer, 0, n);
            watch?.Invoke(buffer.AsSpan(0, n));
        }
        return all.ToArray();
    });

    public void Dispose()
    {
        if (!_process.HasExited) _process.Kill();
        _process.Dispose();
        _com1.Dispose();
        _com2.Dispose();
        Directory.Delete(_folder, recursive: true);
    }
}
