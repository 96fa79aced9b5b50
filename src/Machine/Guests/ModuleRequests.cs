using System.Globalization;
using System.Text;
using System.Threading.Channels;
using Bunraku.Machine.Virtio.Ports;

namespace Bunraku.Machine;

/// <summary>
/// Gives a Linux guest the modules of its kernel when it wants one, by a port of its virtio console: <see cref="LinuxGuest.ModulePort"/>. They are some
/// hundred megabytes, of which most guests need nothing, so they are in no initramfs.
/// </summary>
/// <remarks>
/// The guest sends lines of ASCII, and waits for the answer before it sends another:
/// <code>
/// resolve VERSION NAME    ok MODULE…       to be loaded in this order; none where it is built in
/// read VERSION MODULE     SIZE, the bytes  of the module's file
/// info VERSION MODULE     SIZE, the bytes  of lines KEY=VALUE, what the module says of itself
/// list VERSION            ok MODULE…       all
/// </code>
/// Each answer is a line, "none" where there is nothing. VERSION is what uname -r prints: a guest can ask for any kernel that this machine has.
/// </remarks>
public sealed class ModuleRequests
{
    // A line is a name of at most 55 bytes in Linux, or an alias of some 100.
    private const int LongestLine = 512, MostWaiting = 8;

    private static readonly TimeSpan s_pause = TimeSpan.FromMilliseconds(20), s_idle = TimeSpan.FromSeconds(1);

    private readonly Func<string, KernelModules?> _open;
    private readonly List<byte> _line = [];
    private readonly Channel<(string Line, int Opener)> _requests = Channel.CreateBounded<(string, int)>(MostWaiting);
    private readonly Task _ends;
    private int _isServing;
    private volatile int _opener; // counts programs that had the port: nobody gets an answer to another

    /// <param name="open">Opens the modules of a kernel; null: there are none.</param>
    /// <param name="ends">The machine has ended: nobody takes answers.</param>
    public ModuleRequests(Func<string, KernelModules?> open, Task ends)
    {
        (_open, _ends) = (open, ends);
        Port = new ConsolePort("org.bunraku.modules") { Output = Take, OutputEnded = Closed };
    }

    /// <summary>The guest has it.</summary>
    public ConsolePort Port { get; }

    private void Closed()
    {
        _line.Clear();
        _opener++;
    }

    /// <summary>On a vCPU's thread: does not wait. A guest that asks faster than it takes answers loses requests.</summary>
    private void Take(ReadOnlySpan<byte> bytes)
    {
        foreach (byte b in bytes)
        {
            if (b != (byte)'\n')
            {
                if (_line.Count < LongestLine) _line.Add(b);
                continue;
            }
            bool queued = _requests.Writer.TryWrite((Encoding.ASCII.GetString([.. _line]), _opener));
            _line.Clear();
            // Nobody's thread is taken up by guests that ask for nothing.
            if (queued && Interlocked.Exchange(ref _isServing, 1) == 0) _ = Task.Run(Serve);
        }
    }

    private async Task Serve()
    {
        KernelModules? modules = null;
        string opened = "";
        do
        {
            while (!_ends.IsCompleted && _requests.Reader.TryRead(out (string Line, int Opener) request))
            {
                if (request.Opener != _opener) continue;
                string[] words = request.Line.Split(' ');
                if (words.ElementAtOrDefault(1) is { } version && version != opened)
                {
                    modules?.Dispose();
                    (modules, opened) = (_open(version), version);
                }
                byte[] answer = Answer(words, modules);
                if (request.Opener == _opener) Port.Send(answer);
                // What it was given waits here until it is taken: no more is read before.
                while (!Port.AwaitRoom(1, 0) && !_ends.IsCompleted) await Task.Delay(s_pause).ConfigureAwait(false);
            }
        }
        while (!_ends.IsCompleted && await More().ConfigureAwait(false));
        modules?.Dispose();
        Volatile.Write(ref _isServing, 0);
        // A request that came since the last look found somebody serving.
        if (!_ends.IsCompleted && _requests.Reader.Count > 0 && Interlocked.Exchange(ref _isServing, 1) == 0) _ = Task.Run(Serve);
    }

    /// <summary>One request is rarely alone: the archive stays open for a while.</summary>
    private async Task<bool> More()
    {
        using var idle = new CancellationTokenSource(s_idle);
        try
        {
            return await _requests.Reader.WaitToReadAsync(idle.Token).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            return false;
        }
    }

    /// <summary>What a request is answered with: in one, so that a guest that is saved has all of it or nothing.</summary>
    private static byte[] Answer(string[] words, KernelModules? modules)
    {
        try
        {
            byte[]? bytes = words switch
            {
                ["read", _, var name] => modules?.Read(name),
                ["info", _, var name] => modules?.Describe(name) is { } text ? Encoding.UTF8.GetBytes(text) : null,
                _ => null,
            };
            if (bytes is not null)
                return [.. Encoding.ASCII.GetBytes(string.Create(CultureInfo.InvariantCulture, $"{bytes.Length}\n")), .. bytes];
            IReadOnlyList<string>? list = words switch
            {
                ["resolve", _, var wanted] => modules?.Resolve(wanted),
                ["list", _] => modules?.Names,
                _ => null,
            };
            if (list is not null) return Encoding.ASCII.GetBytes(string.Join(' ', ["ok", .. list]) + "\n");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or InvalidDataException)
        {
            // A damaged archive is as good as none, and so is a file that only root may read.
        }
        return [.. "none\n"u8];
    }
}
