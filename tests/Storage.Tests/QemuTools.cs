using System.Diagnostics;
using Bunraku.Testing;

namespace Bunraku.Storage.Tests;

/// <summary>QEMU's tools for images, the oracle.</summary>
internal static class QemuTools
{
    /// <summary>Runs a tool to its end.</summary>
    /// <returns>Status, and what it wrote on both streams.</returns>
    public static (int Status, string Output) Run(string tool, params string[] arguments)
    {
        using var process = new TestProcess(new ProcessStartInfo(tool, arguments) { RedirectStandardOutput = true, RedirectStandardError = true });
        Task<string> errors = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + errors.Result);
    }

    public static string Image(params string[] arguments)
    {
        (int status, string output) = Run("qemu-img", arguments);
        Assert.True(status == 0, $"qemu-img {string.Join(' ', arguments)}: {output}");
        return output;
    }

    /// <summary>Commands of qemu-io on one image.</summary>
    public static string Io(string path, params string[] commands)
    {
        (int status, string output) = Run("qemu-io", ["-f", "qcow2", .. commands.SelectMany(c => new[] { "-c", c }), path]);
        Assert.True(status == 0, $"qemu-io {string.Join("; ", commands)}: {output}");
        return output;
    }

    /// <summary>A check that finds nothing, or leaks and nothing else where they are allowed.</summary>
    public static void Check(string path, bool leaksAllowed = false)
    {
        (int status, string output) = Run("qemu-img", "check", "-f", "qcow2", path);
        const int leaks = 3;
        Assert.True(status == 0 || leaksAllowed && status == leaks, $"qemu-img check: status {status}: {output}");
    }

    /// <summary>The whole disk as QEMU reads it.</summary>
    public static byte[] ReadAll(string path, string format = "qcow2")
    {
        string raw = path + ".raw";
        Image("convert", "-f", format, "-O", "raw", path, raw);
        byte[] bytes = File.ReadAllBytes(raw);
        File.Delete(raw);
        return bytes;
    }
}

/// <summary>A folder that is gone after the test.</summary>
internal sealed class TemporaryFolder : IDisposable
{
    private readonly string _path = Directory.CreateTempSubdirectory("bunraku-storage").FullName;

    public string this[string name] => Path.Combine(_path, name);

    public void Dispose() => Directory.Delete(_path, recursive: true);
}
