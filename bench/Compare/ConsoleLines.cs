using System.Collections.Concurrent;
using System.Diagnostics;
using System.Text;

namespace Bunraku.Compare;

/// <summary>Lines of a serial console, each with the host's time at which its end arrived: no monitor's own clock is trusted.</summary>
internal sealed class ConsoleLines : IDisposable
{
    private readonly BlockingCollection<(string Text, long Time)> _lines = [];
    private readonly CancellationTokenSource _stop = new();
    private readonly Thread _reader;
    private readonly StringBuilder _errors = new();

    private ConsoleLines(Action<ConsoleLines> read)
    {
        _reader = new Thread(() =>
        {
            try
            {
                read(this);
            }
            catch (Exception e) when (e is IOException or ObjectDisposedException or OperationCanceledException)
            {
                // The process ended, or nobody wants to know any more.
            }
            _lines.CompleteAdding();
        });
        _reader.IsBackground = true;
        _reader.Name = "console";
        _reader.Start();
    }

    /// <summary>The console is the process's standard output; its errors are kept for <see cref="Errors"/>.</summary>
    public static ConsoleLines OfOutput(Process process)
    {
        var lines = new ConsoleLines(me => me.Read(process.StandardOutput.BaseStream, () => false));
        lines.KeepErrors(process);
        return lines;
    }

    /// <summary>The console is a file that grows while the process runs.</summary>
    public static ConsoleLines OfFile(Process process, string path)
    {
        var lines = new ConsoleLines(me =>
        {
            using FileStream file = new(path, FileMode.OpenOrCreate, FileAccess.Read, FileShare.ReadWrite, bufferSize: 0);
            me.Read(file, () => !process.HasExited);
        });
        process.OutputDataReceived += (_, _) => { };
        process.BeginOutputReadLine();
        lines.KeepErrors(process);
        return lines;
    }

    /// <summary>The end of what the process wrote on its standard error.</summary>
    public string Errors
    {
        get
        {
            lock (_errors) return _errors.ToString();
        }
    }

    /// <summary>The next line, without its end.</summary>
    /// <returns>False at the end of the console, or after <paramref name="patience"/>.</returns>
    public bool TryTake(TimeSpan patience, CancellationToken cancel, out (string Text, long Time) line) =>
        _lines.TryTake(out line, (int)patience.TotalMilliseconds, cancel);

    /// <summary>Nothing more will come.</summary>
    public bool Ended => _lines.IsCompleted;

    public void Dispose()
    {
        _stop.Cancel();
        _reader.Join(TimeSpan.FromSeconds(2));
    }

    private void Read(Stream stream, Func<bool> grows)
    {
        const int longestLine = 4096; // the guest's kernel is not hostile here, but a monitor's bug may be
        byte[] buffer = new byte[4096];
        var line = new StringBuilder();
        while (!_stop.IsCancellationRequested)
        {
            bool last = !grows(); // before the read: what is written before the end is still read
            int count = stream.Read(buffer);
            long now = Stopwatch.GetTimestamp();
            if (count == 0)
            {
                if (last) break;
                Thread.Sleep(1);
                continue;
            }
            foreach (byte b in buffer.AsSpan(0, count))
            {
                if (b == '\n' || line.Length == longestLine)
                {
                    _lines.Add((line.ToString().TrimEnd('\r'), now));
                    line.Clear();
                }
                else
                {
                    line.Append((char)b);
                }
            }
        }
        if (line.Length > 0) _lines.Add((line.ToString(), Stopwatch.GetTimestamp()));
    }

    private void KeepErrors(Process process)
    {
        process.ErrorDataReceived += (_, e) =>
        {
            lock (_errors)
            {
                _errors.AppendLine(e.Data);
                if (_errors.Length > 8192) _errors.Remove(0, 4096);
            }
        };
        process.BeginErrorReadLine();
    }
}
