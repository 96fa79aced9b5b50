using System.Diagnostics;
using System.Text;
using Bunraku.Engines;
using Bunraku.Machine.Board;

namespace Bunraku.Machine.Tests;

/// <summary>A multiboot kernel gets from our loader what it gets from QEMU's own: QEMU runs it both ways, and it prints what it finds.</summary>
public sealed class MultibootOnQemuTests : IDisposable
{
    private const ulong MemorySize = 64 << 20;

    /// <summary>
    /// Prints the loader's magic number's lowest digit, the kernel's command line, and for each module its string and its bytes; "!" before a module
    /// that begins inside a page. Ends through isa-debug-exit.
    /// </summary>
    private const string Source =
        """
        bits 32
        section .text
        global _start
            align 4
            dd 0x1BADB002, FLAGS, -(0x1BADB002 + FLAGS)
        _start:
            mov esp, stack
            and al, 15
            add al, '0'
            call put
            call newline
            mov esi, [ebx + 16]
            call text
            call newline
            test byte [ebx], 8
            jz finish
            mov ebp, [ebx + 20]
            mov edi, [ebx + 24]
        module:
            test ebp, ebp
            jz finish
            dec ebp
            mov esi, [edi + 8]
            call text
            call newline
            mov esi, [edi]
            test esi, 0xFFF
            jz byte_of_module
            mov al, '!'
            call put
        byte_of_module:
            cmp esi, [edi + 4]
            je module_end
            lodsb
            call put
            jmp byte_of_module
        module_end:
            call newline
            add edi, 16
            jmp module
        finish:
            out 0xF4, al
            cli
            hlt
        newline:
            mov al, 10
        put:
            push eax
            mov dx, 0x3FD
        wait_empty:
            in al, dx
            test al, 0x20
            jz wait_empty
            pop eax
            mov dx, 0x3F8
            out dx, al
            ret
        text:
            lodsb
            test al, al
            jz text_end
            call put
            jmp text
        text_end:
            ret
        section .bss align=16
            resb 4096
        stack:
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("bunraku-multiboot").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static void Tool(string name, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(name, arguments) { RedirectStandardError = true })!;
        string errors = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, errors);
    }

    private string Build(int flags, params string[] linking)
    {
        string source = Path.Combine(_folder, "kernel.asm"), compiled = Path.Combine(_folder, "kernel.o"), kernel = Path.Combine(_folder, "kernel");
        File.WriteAllText(source, Source);
        Tool("nasm", "-f", "elf32", $"-DFLAGS={flags}", "-o", compiled, source);
        Tool("ld", ["-m", "elf_i386", .. linking, "-o", kernel, compiled]);
        return kernel;
    }

    private static string OnQemu(params string[] arguments)
    {
        using var qemu = new Qemu(null, ["-device", "isa-debug-exit,iobase=0xf4", .. arguments]);
        string output = Encoding.UTF8.GetString(qemu.Finish().Com1);
        Assert.True(qemu.Status % 2 == 1, $"the kernel did not come to its end: {output}");
        return output;
    }

    private string ByQemu(string kernel, string append, string modules) =>
        OnQemu(["-m", $"{MemorySize >> 20}M", "-kernel", kernel, "-append", append, .. (string[])(modules.Length > 0 ? ["-initrd", modules] : [])]);

    private string ByUs(string kernel, string append, IEnumerable<string> modules, Action<string>? warn = null)
    {
        using var memory = new GuestMemory(MemorySize);
        CpuState state = KernelLoader.Load(new(memory, LoadersOnQemuTests.Model(CpuFeature.Lm), E820.Build(memory), File.ReadAllBytes(kernel), kernel)
        {
            CommandLine = append,
            Modules = [.. modules.Select(m => BootModule.Parse(m)).Select(m => new BootModule(File.ReadAllBytes(m.Path), m.Path, m.Arguments))],
            Warn = warn ?? (w => Assert.Fail(w)),
        });
        return OnQemu(BootStateRom.Prepare(state, memory, _folder));
    }

    private string Module(string name, string content)
    {
        string path = Path.Combine(_folder, name);
        File.WriteAllText(path, content);
        return path;
    }

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(3)]
    public void Modules_come_in_order_with_their_command_lines(int count)
    {
        string kernel = Build(3, "-Ttext=0x100000", "-N");
        string[] texts =
            [$"{Module("first", "content of the first")} root=/dev/ram0  two  spaces", $"{Module("second", new string('x', 5000) + " end")} a,,b,,,,c",
            Module("third", "3")];
        string list = string.Join(',', texts.Take(count));
        string expected = ByQemu(kernel, "option=1 --", list);
        Assert.Equal(expected, ByUs(kernel, "option=1 --", count == 0 ? [] : BootModule.SplitList(list)));
        Assert.StartsWith($"2\n{kernel} option=1 --\n", expected);
        if (count > 1) Assert.Contains("second a,b,,c\nxxx", expected);
    }

    /// <summary>
    /// What the linker makes without a script: a segment that begins with the file's headers, in the page before the code, where a PC has ROM.
    /// </summary>
    [Theory]
    [InlineData("-z", "separate-code")]
    [InlineData("-z", "noseparate-code")]
    public void Headers_of_the_file_may_have_their_place_where_no_RAM_is(params string[] linking)
    {
        string kernel = Build(3, ["-Ttext=0x100000", .. linking]);
        const int programHeaders = 52, physicalAddress = 12;
        Assert.Equal(0xF_F000u, BitConverter.ToUInt32(File.ReadAllBytes(kernel), programHeaders + physicalAddress));
        string output = ByUs(kernel, "", []);
        Assert.Equal(ByQemu(kernel, "", ""), output.Replace($"{kernel}\n", $"{kernel} \n"));
    }

    [Fact]
    public void Conventional_memory_holds_segments()
    {
        string kernel = Build(3, "-Ttext=0x600", "-N");
        Assert.Equal(ByQemu(kernel, "a", ""), ByUs(kernel, "a", []));
    }

    [Fact]
    public void A_video_mode_that_the_header_asks_for_is_warned_of_and_left_out()
    {
        var warnings = new List<string>();
        string kernel = Build(7, "-Ttext=0x100000", "-N");
        Assert.StartsWith($"2\n{kernel} a\n", ByUs(kernel, "a", [], warnings.Add));
        Assert.Contains("video mode", Assert.Single(warnings));
    }
}
