using System.Diagnostics;
using System.Net.Sockets;
using Bunraku.Testing;

namespace Bunraku.Machine.Tests;

/// <summary>One run of QEMU with two serial ports whose output is kept. Both take input.</summary>
internal sealed class Qemu : IDisposable
{
    private const int PollMilliseconds = 100;

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-qemu").FullName;
    private readonly TestProcess _process;
    private readonly Task<string> _complaints;
    private readonly Socket _com1, _com2;
    private readonly Task<byte[]> _com1Output, _com2Output;

    /// <param name="com1">Sees COM1's output as it comes.</param>
    public Qemu(Action<ReadOnlySpan<byte>>? com1, params string[] arguments)
    {
        using Socket listen1 = Listen("com1"), listen2 = Listen("com2");
        _process = new TestProcess(new ProcessStartInfo("qemu-system-x86_64",
        [
            "-accel", "tcg", "-display", "none", "-nodefaults", "-no-reboot",
            "-serial", $"unix:{_folder}/com1", "-serial", $"unix:{_folder}/com2", .. arguments,
        ])
        { RedirectStandardError = true });
        _complaints = _process.StandardError.ReadToEndAsync();
        _com1 = Accept(listen1);
        _com2 = Accept(listen2);
        _com1Output = ReadAll(_com1, com1);
        _com2Output = ReadAll(_com2, null);
    }

    public void SendCom1(ReadOnlySpan<byte> bytes) => _com1.Send(bytes);

    public void SendCom2(ReadOnlySpan<byte> bytes) => _com2.Send(bytes);

    /// <summary>Returns once <paramref name="signal"/> is set or the machine has ended, however long that takes on a busy host.</summary>
    public void Await(ManualResetEventSlim signal)
    {
        while (!signal.Wait(PollMilliseconds) && !_process.HasExited)
        {
        }
    }

    /// <summary>Ends the machine once <paramref name="signal"/> is set.</summary>
    public void EndAfter(ManualResetEventSlim signal)
    {
        Await(signal);
        _process.Kill();
    }

    /// <summary>Waits for the machine's end; returns what the two ports sent.</summary>
    public (byte[] Com1, byte[] Com2) Finish()
    {
        _process.WaitForExit();
        return (_com1Output.Result, _com2Output.Result);
    }

    /// <summary>Exit status after <see cref="Finish"/>.</summary>
    public int Status => _process.ExitCode;

    private Socket Accept(Socket listening)
    {
        while (!listening.Poll(PollMilliseconds * 1000, SelectMode.SelectRead))
            if (_process.HasExited) throw new InvalidOperationException($"QEMU did not start: {_complaints.Result}");
        return listening.Accept();
    }

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
        _process.Dispose();
        _com1.Dispose();
        _com2.Dispose();
        Directory.Delete(_folder, recursive: true);
    }
}
