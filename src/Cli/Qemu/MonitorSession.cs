using System.Text;
using Bunraku.Cli.Qemu.Characters;
using Bunraku.Cli.Terminals;
using Bunraku.Sessions.Monitoring;

namespace Bunraku.Cli.Qemu;

/// <summary>A monitor for people that has a character device for itself: greets who comes, echoes, and answers behind QEMU's prompt.</summary>
internal sealed class MonitorSession
{
    /// <summary>What QEMU's prompt says, which programs wait for.</summary>
    public const string PromptName = "qemu";

    private readonly CharacterDevice _device;
    private readonly MonitorShell _shell;
    private readonly EscapeSequences _sequences = new();
    private readonly LineEditor _editor;

    /// <param name="columns">Width of a line.</param>
    public MonitorSession(Vm vm, CharacterDevice device, Func<int> columns)
    {
        _device = device;
        _shell = new MonitorShell(vm, columns, wayBack: null, PromptName);
        _editor = new LineEditor(columns, () => _shell.Prompt, _shell.Complete);
        device.Connected = Greet;
        device.Received = Feed;
    }

    private void Greet() => Show($"QEMU {QemuCommand.Version} monitor - type 'help' for more information\n{_editor.Draw()}");

    private void Feed(ReadOnlySpan<byte> typed)
    {
        foreach (byte b in typed)
        {
            if (!_device.AwaitRoom()) return;
            _sequences.Feed(b, Take);
        }
    }

    private void Take(TerminalInput what, byte[] bytes)
    {
        switch (what)
        {
            case TerminalInput.Report:
                break;
            case TerminalInput.Key:
                Edit(EditorKeys.Of(bytes), '\0');
                break;
            default:
                foreach (byte b in bytes) Edit(EditorKeys.Of(b), (char)b);
                break;
        }
    }

    private void Edit(EditorKey key, char character)
    {
        (string shown, string? line) = _editor.Key(key, character);
        Show(shown);
        if (line is not null) Show(_shell.Execute(line) + _editor.Draw());
    }

    private void Show(string text)
    {
        if (text.Length > 0) _device.Write(Encoding.UTF8.GetBytes(text.Replace("\n", "\r\n", StringComparison.Ordinal)));
    }
}
